# SPDX-License-Identifier: Apache-2.0
"""OpenVLA in the registry: folders and hub ids."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from vla_ros.openvla.checkpoint import Checkpoint
from vla_ros.openvla.config import OpenVLAConfig
from vla_ros.openvla.costs import model_bytes, robot_bytes
from vla_ros.openvla.hub import downloaded_model
from vla_ros.openvla.kept_patches import check_share
from vla_ros.openvla.loading import build_model
from vla_ros.openvla.normalization import select_statistics
from vla_ros.openvla.placement import DTYPES, check_quantization, choose_device, choose_dtype
from vla_ros.openvla.plain import check_folder
from vla_ros.openvla.policy import OpenVLAPolicy
from vla_ros.openvla.preprocessing import Preprocessing
from vla_ros.openvla.processor import load_processors
from vla_ros.openvla.spec import spec_of
from vla_ros.policy_request import PolicyRequest
from vla_ros.types import PolicySpec, ProgressCallback

# Peak of loading, warming up and inferring for one robot, less the weights: 1.1 GB was measured in
# bfloat16, 1.2 in int8, 1.1 in int4 (docs/benchmarks/cpu.md).
_BESIDE_WEIGHTS_BYTES = 1_200_000_000


@dataclass(frozen=True)
class OpenVLAInspection:
    """The properties of a checkpoint that its files have beside the values of the weights."""

    folder: Path
    config: OpenVLAConfig

    def check(self) -> str:
        """Run the loader's checks up to the reading of weights, and return the findings.

        :raises CheckpointError: if the loader would not take the folder.
        """
        load_processors(self.folder, self.config)
        checkpoint = Checkpoint(self.folder)
        build_model(checkpoint, self.config)
        dtypes = ', '.join(sorted(str(one).removeprefix('torch.') for one in checkpoint.dtypes))
        found = (
            f'{self.folder}: {len(checkpoint.shapes)} tensors in {dtypes}, with the names and '
            'shapes of config.json; their values are checked when they are loaded'
        )
        doubt = '' if self.config.layout is None else self.config.layout.doubt
        return f'{found}; {doubt}' if doubt else found

    @property
    def unnorm_keys(self) -> tuple[str, ...]:
        """The data sets whose statistics the checkpoint has."""
        return tuple(self.config.norm_stats)

    def key(self, unnorm_key: str) -> str:
        """Return the key to use; an empty one selects the only one.

        :raises UnnormKeyError: if there are no such statistics.
        """
        return select_statistics(self.config.norm_stats, unnorm_key)[0]

    def spec(self, unnorm_key: str | None = None) -> PolicySpec:
        """Return the policy's spec.

        :raises UnnormKeyError: if there are no such statistics.
        """
        return spec_of(self.config, unnorm_key)

    def needed_bytes(self, request: PolicyRequest, robots: int = 1) -> int:
        """Return the memory that loading and running take, from the shapes of the model.

        What CUDA graphs keep beside keys and values was not measured: on a GPU an inference took
        0.2 GB beside the weights, so there is room for it.

        :param request: resolved.
        :param robots: of the largest batch.
        """
        dtype, device = DTYPES[request.dtype], request.device
        weights = model_bytes(self.config, dtype, request.quantization, device)
        row, kept = robot_bytes(self.config, dtype, request.recomputed_patches < 1)
        return weights + _BESIDE_WEIGHTS_BYTES + (robots - 1) * row + robots * kept


class OpenVLA:
    """Owns every model that no other kind owns."""

    def owns(self, model: str) -> bool:
        """Return True: the name is a folder or a hub id."""
        return True

    def resolve(self, request: PolicyRequest) -> PolicyRequest:
        """Return the request with the device and dtype of this machine.

        :raises PlacementError: if device, dtype, quantization or recomputed_patches is not
            available here.
        :raises PreprocessingError: if there is none of that name.
        """
        device = choose_device(request.device)
        dtype = choose_dtype(request.dtype, device)
        check_quantization(request.quantization, device, dtype, request.compile)
        check_share(request.recomputed_patches, request.compile)
        _preprocessing(request, center_crop=False)
        name = str(dtype).removeprefix('torch.')
        return replace(request, device=str(device), dtype=name)

    def inspect(self, request: PolicyRequest) -> OpenVLAInspection | None:
        """Return the checkpoint's properties; None if its files must be downloaded first.

        :raises CheckpointError: if the loader would not take the folder or its config.json.
        """
        folder = downloaded_model(request.model, request.revision or None)
        if folder is None:
            return None
        check_folder(folder)
        return OpenVLAInspection(folder, OpenVLAConfig.from_directory(folder))

    def recipe(self, request: PolicyRequest, center_crop: bool) -> dict[str, Any]:
        """Return the facts beyond the request that a loaded policy's answers depend on."""
        return {
            'preprocessing': request.preprocessing,
            'center_crop': center_crop,
            'rotate_180': request.rotate_180,
            'torch': torch.__version__,
            'threads': torch.get_num_threads(),
        }

    def load(
        self,
        request: PolicyRequest,
        center_crop: bool,
        max_batch_size: int,
        progress: ProgressCallback,
        repeatable: bool,
    ) -> OpenVLAPolicy:
        """Load the checkpoint; download it first if need be.

        :raises PolicyError: if there can be no such policy.
        """
        return OpenVLAPolicy.from_pretrained(
            request.model,
            device=request.device,
            dtype=request.dtype,
            quantization=request.quantization,
            revision=request.revision or None,
            compile=request.compile,
            max_batch_size=max_batch_size,
            preprocessing=_preprocessing(request, center_crop),
            progress=progress,
            repeatable=repeatable,
            cuda_graphs=request.cuda_graphs,
            recomputed_patches=request.recomputed_patches,
        )


def _preprocessing(request: PolicyRequest, center_crop: bool) -> Preprocessing:
    return Preprocessing(request.preprocessing, center_crop, request.rotate_180)
