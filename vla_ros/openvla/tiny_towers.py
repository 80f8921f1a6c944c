"""Two vision towers in the layout of OpenVLA's, narrow and shallow, registered with timm.

Tests and the demonstration run on them: whatever holds for the large ones (prefix tokens,
LayerScale, an unused attention-pool head, an odd MLP width) is there. The ones called ``vlablocks``
are those of models/blocks: larger patches, so that a CPU can train them.
"""

from __future__ import annotations

from typing import Any

from timm.models import register_model
from timm.models.vision_transformer import VisionTransformer

_LIBRARY_ONLY = ('pretrained_cfg', 'pretrained_cfg_overlay', 'cache_dir')


# What makes the layouts: of vit_large_patch14_reg4_dinov2, and of vit_so400m_patch14_siglip_224.
_DINOV2: dict[str, Any] = {'num_heads': 4, 'reg_tokens': 4, 'no_embed_class': True}
_SIGLIP: dict[str, Any] = {'num_heads': 4, 'class_token': False, 'global_pool': 'map'}
_BLOCKS: dict[str, Any] = {
    'patch_size': 28,
    'embed_dim': 96,
    'depth': 3,
}  # both towers of models/blocks


def _tower(shape: dict[str, Any], overrides: dict[str, Any]) -> VisionTransformer:
    own = {key: value for key, value in overrides.items() if key not in _LIBRARY_ONLY}
    return VisionTransformer(**{**shape, **own})


@register_model
def vit_vlatiny_patch14_reg4_dinov2(
    pretrained: bool = False, **overrides: Any
) -> VisionTransformer:
    """In the layout of vit_large_patch14_reg4_dinov2."""
    shape = {'patch_size': 14, 'embed_dim': 64, 'depth': 4, 'init_values': 1e-5}
    return _tower({**_DINOV2, **shape}, overrides)


@register_model
def vit_vlatiny_patch14_siglip_224(pretrained: bool = False, **overrides: Any) -> VisionTransformer:
    """In the layout of vit_so400m_patch14_siglip_224."""
    shape = {'patch_size': 14, 'embed_dim': 80, 'depth': 5, 'mlp_ratio': 3.7362}
    return _tower({**_SIGLIP, **shape}, overrides)


@register_model
def vit_vlablocks_patch28_reg4_dinov2(
    pretrained: bool = False, **overrides: Any
) -> VisionTransformer:
    """In the layout of vit_large_patch14_reg4_dinov2, but for the patches."""
    return _tower({**_DINOV2, **_BLOCKS, 'init_values': 0.1}, overrides)


@register_model
def vit_vlablocks_patch28_siglip_224(
    pretrained: bool = False, **overrides: Any
) -> VisionTransformer:
    """In the layout of vit_so400m_patch14_siglip_224, but for the patches."""
    return _tower({**_SIGLIP, **_BLOCKS}, overrides)
