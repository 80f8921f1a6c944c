# SPDX-License-Identifier: Apache-2.0
"""Small vision towers that timm does not have, in the layouts of OpenVLA's.

Tests and the demonstrations run on them. Each has what makes the large ones special: prefix tokens,
LayerScale, an unused attention-pool head, an odd MLP width. The ones named ``vlablocks`` belong to
models/blocks: their patches are larger, so that a CPU can train them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from timm.models.vision_transformer import VisionTransformer

# The layouts of vit_large_patch14_reg4_dinov2 and vit_so400m_patch14_siglip_224.
_DINOV2: dict[str, Any] = {'num_heads': 4, 'reg_tokens': 4, 'no_embed_class': True}
_SIGLIP: dict[str, Any] = {'num_heads': 4, 'class_token': False, 'global_pool': 'map'}
_BLOCKS: dict[str, Any] = {'patch_size': 28, 'embed_dim': 96, 'depth': 3}

# Name in config.json -> builder. timm's own registry would be a setting of the whole process.
TOWERS: Mapping[str, Callable[..., VisionTransformer]] = {
    'vit_vlatiny_patch14_reg4_dinov2': partial(
        VisionTransformer, **_DINOV2, patch_size=14, embed_dim=64, depth=4, init_values=1e-5
    ),
    'vit_vlatiny_patch14_siglip_224': partial(
        VisionTransformer, **_SIGLIP, patch_size=14, embed_dim=80, depth=5, mlp_ratio=3.7362
    ),
    'vit_vlablocks_patch28_reg4_dinov2': partial(
        VisionTransformer, **_DINOV2, **_BLOCKS, init_values=0.1
    ),
    'vit_vlablocks_patch28_siglip_224': partial(VisionTransformer, **_SIGLIP, **_BLOCKS),
}
