"""Use every kind of public name as a person would; mypy checks it strictly, and nothing runs it."""

from __future__ import annotations

from pathlib import Path
from typing import assert_type

import nibabel
import numpy as np
import timm
import torch
from torch import Tensor, nn

import covtoken as ct


def to_a_map(pixels: np.ndarray, image: nibabel.Nifti1Image) -> None:
    vit = ct.load_backbone("embedded", picture_size=224)
    assert_type(vit, ct.FrozenViT)
    direction = ct.shipped_direction("ultrasound")
    assert_type(direction, ct.Direction)
    shown: np.ndarray = ct.lesion_map(pixels, vit, direction)
    print(shown.shape)
    volume = ct.lesion_map(image, vit, direction, organ="lung")
    assert_type(volume, nibabel.Nifti1Image)
    assert_type((vit.rows, vit.n_blocks, vit.n_prefix, vit.device), tuple[int, int, int, torch.device])


def to_a_certificate(folder: Path) -> ct.Certificate:
    vit, cohort = ct.load_backbone(), ct.open_cohort(folder)
    assert_type(cohort, ct.Cohort)
    splits = ct.load_splits(cohort)
    part = {name: [case for case in cohort.cases if splits[case.unit] == name] for name in ("bank", "calibration")}
    bank, found = (ct.features(cases, vit, blocks=[6, 9]) for cases in part.values())
    assert_type(found, ct.FeatureSet)
    direction = ct.direction_of(ct.RECOMMENDED, bank)
    assert_type(direction, ct.Direction)
    scores = ct.direction_maps(ct.RECOMMENDED, direction, found)
    print(ct.score_maps(ct.RECOMMENDED, bank, found), ct.kept_tokens(scores, ratio=0.25), ct.build_bank(bank, 9))
    labels = ct.label(part["calibration"], cohort, vit.rows, vit.cols)
    made_by = ct.MadeBy.from_header(direction.header, "C−")
    certificate = ct.certify(scores, labels, alpha=0.1, made_by=made_by)
    certificate.save(folder / "certificate.json")
    return ct.load_certificate(folder / "certificate.json")


def to_a_route(direction: ct.Direction, certificate: ct.Certificate) -> Tensor:
    vit = ct.from_timm(timm.create_model("vit_small_patch16_224"))
    routed = ct.route(vit, direction, keep=certificate)
    assert_type(routed, ct.RoutedViT)
    ct.route(vit.model, lambda tokens: tokens.norm(dim=-1), block=6, keep=0.25)
    ct.export_map(vit, direction, "map.onnx")
    maps: ct.ExitMaps = ct.fit_exit_maps([], vit, [ct.Stage(6, direction, ratio=0.25)])
    ct.route(vit, direction, keep=49, exit_maps=maps)
    assert_type(routed.forward(torch.zeros(1, 3, 224, 224)).indices, Tensor)
    return routed.forward(torch.zeros(1, 3, 224, 224)).output_map


def of_any_module(encoder: nn.Module) -> ct.TokenModel:
    def tokens(output: object) -> Tensor:
        assert isinstance(output, Tensor)
        return output[:, 1:]

    return ct.from_module(encoder, blocks=["a", "b"], tokens=tokens, grid=(14, 14), picture_size=224, name="mine")


def is_a_token_model(vit: ct.FrozenViT) -> ct.TokenModel:
    return vit
