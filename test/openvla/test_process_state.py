# SPDX-License-Identifier: Apache-2.0
"""Loading, warming up and inferring change no switch of the process, and need none to be set."""

from __future__ import annotations

import contextlib
import decimal
import functools
import gc
import locale
import logging
import os
import random
import resource
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm.layers.config
import timm.models._registry
import torch
from PIL import Image, ImageFile
from tqdm import tqdm

from support.golden import CASES, picture
from support.hub import REPO, Hub
from support.places import GOLDEN
from vla_ros.openvla import OpenVLAPolicy
from vla_ros.openvla.costs import BlockCosts
from vla_ros.openvla.hub import resolve_model
from vla_ros.openvla.preprocessing import Preprocessing
from vla_ros.types import Prediction

NOISE = np.random.default_rng(3).integers(0, 256, (48, 64, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    """One thread is what the tests may have, and what a policy might set."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


def torch_switches() -> dict[str, Any]:
    backends, dynamo = torch.backends, torch._dynamo.config
    return {
        'default dtype': torch.get_default_dtype(),
        'default device': torch.get_default_device(),
        'threads': torch.get_num_threads(),
        'interop threads': torch.get_num_interop_threads(),
        'gradients': torch.is_grad_enabled(),
        'inference mode': torch.is_inference_mode_enabled(),
        'autocast': (torch.is_autocast_enabled('cpu'), torch.is_autocast_enabled('cuda')),
        'anomaly mode': torch.is_anomaly_enabled(),
        'oneDNN': (
            backends.mkldnn.enabled,
            backends.mkldnn.deterministic,
            backends.mkldnn.allow_tf32,
            backends.mkldnn.fp32_precision,
        ),
        'cuDNN': (
            backends.cudnn.enabled,
            backends.cudnn.benchmark,
            backends.cudnn.deterministic,
            backends.cudnn.allow_tf32,
        ),
        'CUDA products': (
            backends.cuda.matmul.allow_tf32,
            backends.cuda.matmul.allow_fp16_reduced_precision_reduction,
            backends.cuda.matmul.allow_bf16_reduced_precision_reduction,
        ),
        'attention': (
            backends.cuda.flash_sdp_enabled(),
            backends.cuda.mem_efficient_sdp_enabled(),
            backends.cuda.math_sdp_enabled(),
            backends.cuda.cudnn_sdp_enabled(),
        ),
        'precision': torch.get_float32_matmul_precision(),
        'deterministic': torch.get_deterministic_debug_mode(),
        'quantized engine': torch.backends.quantized.engine,
        'graphs': (dynamo.recompile_limit, dynamo.accumulated_recompile_limit),
        'dynamo': (dynamo.suppress_errors, dynamo.disable, dynamo.cache_size_limit),
        'random numbers': torch.get_rng_state().numpy().tobytes(),
        'sharing': torch.multiprocessing.get_sharing_strategy(),
        'print options': vars(torch._tensor_str.PRINT_OPTS).copy(),
    }


def library_switches() -> dict[str, Any]:
    layers = timm.layers.config
    return {
        'numpy errors': np.geterr(),
        'numpy printing': np.get_printoptions(),
        'numpy random numbers': repr(np.random.get_state()),
        'PIL': (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, ImageFile.MAXBLOCK),
        'tqdm': (tqdm.monitor_interval, tqdm.monitor),
        'timm': (layers.is_scriptable(), layers.is_exportable(), layers.is_no_jit()),
        'models of timm': dict(timm.models._registry._model_entrypoints),
        'fused attention': layers.use_fused_attn(),
    }


def python_switches() -> dict[str, Any]:
    loggers = [
        logging.getLogger(),
        *map(logging.getLogger, sorted(logging.Logger.manager.loggerDict)),
    ]
    return {
        'environment': dict(os.environ),
        'warnings': list(warnings.filters),
        'shown warnings': warnings.showwarning,
        'logging': [
            (one.name, one.level, one.disabled, one.propagate, list(one.handlers))
            for one in loggers
            if one.level or one.disabled or not one.propagate or one.handlers
        ],
        'logging off': logging.root.manager.disable,
        'random numbers of Python': random.getstate(),
        'locale': locale.setlocale(locale.LC_ALL),
        'signals': {number: signal.getsignal(number) for number in signal.valid_signals()},
        'streams': (sys.stdin, sys.stdout, sys.stderr),
        'hooks': (sys.excepthook, sys.unraisablehook, threading.excepthook, sys.displayhook),
        'tracing': (sys.gettrace(), sys.getprofile(), threading.gettrace()),
        'recursion': sys.getrecursionlimit(),
        'switch interval': sys.getswitchinterval(),
        'digits': sys.get_int_max_str_digits(),
        'search path': (list(sys.path), list(sys.meta_path), list(sys.path_hooks)),
        'folder': os.getcwd(),
        'file mode': next(
            line for line in Path('/proc/self/status').read_text().splitlines() if 'Umask' in line
        ),
        'collector': (gc.isenabled(), gc.get_threshold(), gc.get_debug(), gc.get_freeze_count()),
        'sockets': socket.getdefaulttimeout(),
        'decimals': repr(decimal.getcontext()),
        'limits': {
            name: resource.getrlimit(getattr(resource, name))
            for name in dir(resource)
            if name.startswith('RLIMIT_')
        },
    }


def switches() -> dict[str, Any]:
    return torch_switches() | library_switches() | python_switches()


class Observer:
    """Compares the switches, as another thread sees them, with those of the beginning."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, 'observer')
        self._expected = self._thread.submit(switches).result()
        self.changed: dict[str, list[str]] = {}  # where -> which
        self.places: list[str] = []

    def look(self, place: str) -> None:
        """Wait until the other thread has looked."""
        seen = self._thread.submit(switches).result()
        changed = [name for name, value in seen.items() if value != self._expected[name]]
        if changed:
            self.changed.setdefault(place, changed)
        self.places.append(place)

    def look_between_layers(self, policy: OpenVLAPolicy) -> Iterator[None]:
        """Look whenever a layer, the head or a tower begins."""
        hooks = [
            module.register_forward_pre_hook(lambda *_, name=name: self.look(name))
            for name, module in policy._model.named_modules()
            if name.endswith(('lm_head', 'featurizer', 'projector', '.self_attn', '.mlp'))
        ]
        yield
        for hook in hooks:
            hook.remove()


@contextlib.contextmanager
def observed() -> Iterator[Observer]:
    observer, own = Observer(), switches()
    yield observer
    observer.look('afterwards')
    assert observer.changed == {}
    assert {name for name, value in switches().items() if value != own[name]} == set()


@pytest.mark.parametrize(
    ('dtype', 'quantization'),
    [('float32', 'none'), ('bfloat16', 'none'), ('bfloat16', 'int8'), ('float32', 'int4')],
)
def test_no_switch_of_the_process_is_changed(
    dtype: str, quantization: str, tiny_checkpoint: Path
) -> None:
    load(tiny_checkpoint, dtype, quantization)  # what a library does when it is first used
    with observed() as observer:
        policy = load(tiny_checkpoint, dtype, quantization, lambda _: observer.look('load'))
        with contextlib.contextmanager(observer.look_between_layers)(policy):
            policy.warmup(lambda progress: observer.look(f'warm-up: {progress.text}'))
            for draft in (None, np.full(7, 31900)):
                policy.predict_action(NOISE, 'go', draft=draft)
        policy.close()
    assert {'load', 'language_model.lm_head', 'projector'} < set(observer.places)


def test_a_download_changes_no_switch_of_the_process(hub: Hub) -> None:
    resolve_model(REPO, 'v1')  # what the library does when it is first used
    with observed() as observer:
        resolve_model(REPO, progress=lambda _: observer.look('download'))
    assert 'download' in observer.places


def load(
    folder: Path,
    dtype: str = 'float32',
    quantization: str = 'none',
    progress: Callable[[Any], None] | None = None,
    compile: bool = False,
) -> OpenVLAPolicy:
    return OpenVLAPolicy.from_pretrained(
        folder,
        device='cpu',
        dtype=dtype,
        quantization=quantization,
        preprocessing=Preprocessing(mode='training', center_crop=True),
        progress=progress,
        compile=compile,
    )


def test_no_tower_is_registered_with_timm(tiny_checkpoint: Path) -> None:
    load(tiny_checkpoint)
    assert not [name for name in timm.list_models() if 'vla' in name]


def test_the_observer_sees_a_switch_that_is_changed_for_a_moment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    observer = Observer()
    with monkeypatch.context() as patched, warnings.catch_warnings():
        warnings.simplefilter('ignore')
        patched.setattr(torch.backends.mkldnn, 'enabled', False)
        observer.look('inside')
    observer.look('behind')
    assert observer.changed == {'inside': ['oneDNN', 'warnings']}


@pytest.fixture
def compiled_in_no_time(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Dynamo's graphs and limits, without a compiler behind them."""
    monkeypatch.setattr(torch, 'compile', functools.partial(torch.compile, backend='eager'))
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.usefixtures('compiled_in_no_time')
def test_a_compiled_policy_changes_no_limit_of_graphs_but_its_own(tiny_checkpoint: Path) -> None:
    """torch's limit is a setting of each thread: one may load the policy, and another use it."""
    observer = Observer()
    with ThreadPoolExecutor(1) as loader, ThreadPoolExecutor(1) as user:
        policy = loader.submit(load, tiny_checkpoint, compile=True).result()
        # Each layer has more graphs than torch allows by itself, and there is no way round one.
        user.submit(policy.warmup, lambda progress: observer.look(progress.text)).result()
        limits = [
            pool.submit(lambda: torch_switches()['graphs']).result() for pool in (loader, user)
        ]
    observer.look('afterwards')
    assert not [place for place, names in observer.changed.items() if 'graphs' in names]
    assert limits == [(8, 256), (8, 256)]


@pytest.fixture
def default_dtype() -> Iterator[Callable[[torch.dtype], None]]:
    """Sets it, and sets it back in the end."""
    before = torch.get_default_dtype()
    yield torch.set_default_dtype
    torch.set_default_dtype(before)


@pytest.mark.parametrize('default', [torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize('key', ['openvla_tiny-vga', 'openvla_v01_tiny-vga'])
def test_another_default_dtype_changes_no_token(
    key: str, default: torch.dtype, default_dtype: Callable[[torch.dtype], None]
) -> None:
    """The reference's tokens come out as well when it is set before loading."""
    name, case = CASES[key]
    default_dtype(default)
    policy = OpenVLAPolicy.from_pretrained(GOLDEN / name, device='cpu', dtype='float32')
    prediction = policy.predict_action(
        picture(case), case['instruction'], case['unnorm_key'], return_logits=True
    )
    assert prediction.tokens.ids.tolist() == case['new_tokens']
    assert prediction.tokens.logits is not None and prediction.tokens.logits.dtype == np.float32
    assert torch.get_default_dtype() == default


@pytest.mark.parametrize(
    ('dtype', 'quantization'), [('float32', 'none'), ('bfloat16', 'int8'), ('float32', 'int4')]
)
def test_another_default_dtype_changes_no_bit(
    dtype: str,
    quantization: str,
    tiny_checkpoint: Path,
    default_dtype: Callable[[torch.dtype], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not in what was loaded before it, and not in what is loaded under it."""
    # A block's products may be rounded otherwise than a token's, and this measures durations.
    monkeypatch.setattr(BlockCosts, 'of', lambda self, batch_size: 1.0)
    before = load(tiny_checkpoint, dtype, quantization)
    expected = act(before)
    default_dtype(torch.bfloat16)
    under = load(tiny_checkpoint, dtype, quantization)
    under.warmup()
    for prediction in (act(before), act(under)):
        assert prediction.tokens.ids.tolist() == expected.tokens.ids.tolist()
        np.testing.assert_array_equal(prediction.tokens.logits, expected.tokens.logits)
        np.testing.assert_array_equal(prediction.action, expected.action)


def act(policy: OpenVLAPolicy) -> Prediction:
    policy.reset()  # or the image's features would be the last ones
    return policy.predict_action(NOISE, 'go', return_logits=True)
