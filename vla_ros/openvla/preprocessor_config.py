# SPDX-License-Identifier: Apache-2.0
"""The content of preprocessor_config.json for towers of 224 pixels, as released files have it."""

from __future__ import annotations

from typing import Any

_SIGLIP = {'inplace': False, 'mean': [0.5, 0.5, 0.5], 'std': [0.5, 0.5, 0.5]}
# ImageNet's, of DINOv2. OpenVLA's files have them rounded to bfloat16, and its weights were trained
# with these; MiniVLA's program has the exact ones.
_DINOV2 = {'inplace': False, 'mean': [0.485, 0.456, 0.406], 'std': [0.229, 0.224, 0.225]}
_DINOV2_ROUNDED = {
    'inplace': False,
    'mean': [0.484375, 0.455078125, 0.40625],
    'std': [0.228515625, 0.2236328125, 0.224609375],
}


def preprocessor_config(fused: bool, letterbox: bool, rounded: bool = True) -> dict[str, Any]:
    """Return the content.

    :param fused: whether there are two towers, DINOv2 and SigLIP, or SigLIP alone.
    :param letterbox: whether a border makes images square; otherwise they are stretched.
    :param rounded: whether the constants of DINOv2 are rounded to bfloat16.
    """
    normalize = [_DINOV2_ROUNDED if rounded else _DINOV2, _SIGLIP] if fused else [_SIGLIP]
    resize = {'antialias': True, 'interpolation': 3, 'size': 224 if letterbox else [224, 224]}
    return {
        'image_processor_type': 'PrismaticImageProcessor',
        'image_resize_strategy': 'letterbox' if letterbox else 'resize-naive',
        'tvf_crop_params': [{'output_size': [224, 224]}] * len(normalize),
        'tvf_do_letterbox': letterbox,
        'tvf_letterbox_fill': [127, 127, 127] if letterbox else None,
        'tvf_normalize_params': normalize,
        'tvf_resize_params': [resize] * len(normalize),
        'use_fused_vision_backbone': fused,
    }
