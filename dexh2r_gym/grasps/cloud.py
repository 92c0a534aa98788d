"""The cloud a generator of grasps is given: checked, thinned out, and with outward normals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import breadth_first_order, connected_components, minimum_spanning_tree
from scipy.spatial import cKDTree
from torch import Tensor

MIN_POINTS = 128
MAX_POINTS = 4096  # more are thinned out
MAX_EXTENT = 1.0  # m
MIN_EXTENT = 0.01  # m
_NEIGHBOURS = 16  # of a point, that say where its tangent plane lies
_STEP = 0.01  # m, out of the surface and into it
_CREASE = 0.3  # 1 - cosine; neighbours bent more than this say nothing of each other
_AWAY = 0.2  # weight of the direction from the middle


@dataclass(frozen=True, eq=False)
class Cloud:
    """Oriented points of a surface, metres."""

    points: Tensor  # (P, 3) float32
    normals: Tensor  # (P, 3) float32, unit, outward


def prepare_cloud(points: Tensor, normals: Tensor | None = None, *, seed: int = 0) -> Cloud:
    """Check a cloud and complete it.

    Args:
        points: (P, 3) metres, any frame; of more than 4096 that many are drawn, with the seed.
        normals: (P, 3) outward, of any length; None: estimated by `estimate_normals`.

    Raises:
        ValueError: empty, of another shape, with NaN, with fewer than 128 points, or of an extent that is not that of
            a hand-held thing in metres.
    """
    if points.ndim != 2 or points.shape[-1] != 3:
        raise ValueError(f"a point cloud must be (P, 3), got {tuple(points.shape)}")
    if len(points) == 0:
        raise ValueError("the point cloud is empty: the object was not seen, or was cropped away")
    broken = ~points.isfinite().all(dim=-1)
    if broken.any():
        raise ValueError(f"the point cloud has NaN or infinite numbers in {int(broken.sum())} of {len(points)} points")
    if len(points) < MIN_POINTS:
        raise ValueError(f"the point cloud has {len(points)} points, at least {MIN_POINTS} are needed")
    extent = float((points.amax(0) - points.amin(0)).amax())
    if extent > MAX_EXTENT:
        raise ValueError(
            f"the point cloud is {extent:.4g} across, more than {MAX_EXTENT:g} m: is it in millimetres, "
            "or does it hold more than the object? Points must be the object's, in metres"
        )
    if extent < MIN_EXTENT:
        raise ValueError(f"the point cloud is {extent:.4g} m across, less than {MIN_EXTENT:g} m: is it in metres?")
    if normals is not None and (normals.shape != points.shape or not normals.isfinite().all()):
        raise ValueError(
            f"normals must be finite and shaped like the points {tuple(points.shape)}, got {tuple(normals.shape)}"
        )
    if len(points) > MAX_POINTS:
        kept = torch.randperm(len(points), generator=torch.Generator().manual_seed(seed))[:MAX_POINTS]
        points, normals = points[kept], None if normals is None else normals[kept]
    points = points.float()
    normals = estimate_normals(points) if normals is None else torch.nn.functional.normalize(normals.float(), dim=-1)
    return Cloud(points, normals)


def estimate_normals(points: Tensor) -> Tensor:
    """Outward unit normals (P, 3) of a cloud (P, 3).

    Tangent planes of the nearest neighbours, turned to one side along a minimum spanning tree of the neighbourhoods
    (Hoppe et al., SIGGRAPH 1992). The tree is cut at creases; each piece then votes which side is out: a step out leads
    further from the cloud than a step in, to the other face of a thin body, and away from the cloud's middle. A sheet
    that is thinner than its points are apart cannot be oriented: give the normals then.
    """
    cloud = points.double().numpy()
    search = cKDTree(cloud)
    count = min(_NEIGHBOURS, len(cloud))
    near = search.query(cloud, k=count)[1]
    offset = cloud[near] - cloud[near].mean(1, keepdims=True)
    normals = np.linalg.eigh(offset.transpose(0, 2, 1) @ offset)[1][..., 0]

    first, second = np.repeat(np.arange(len(cloud)), count - 1), near[:, 1:].ravel()
    bend = 1.0 + 1e-6 - np.abs((normals[first] * normals[second]).sum(-1))
    smooth = bend < _CREASE
    edges = (bend[smooth], (first[smooth], second[smooth]))
    graph = coo_matrix(edges, shape=(len(cloud), len(cloud))).tocsr()
    tree = minimum_spanning_tree(graph.maximum(graph.T))
    pieces = connected_components(tree, directed=False)[1]
    for root in np.unique(pieces, return_index=True)[1]:
        order, parent = breadth_first_order(tree, root, directed=False)
        for node in order[1:]:
            if normals[node] @ normals[parent[node]] < 0:
                normals[node] *= -1

    ahead, behind = (search.query(cloud + side * _STEP * normals)[0] for side in (1, -1))
    away = cloud - cloud.mean(0)
    away /= np.linalg.norm(away, axis=1, keepdims=True).clip(1e-9)
    vote = (ahead - behind) / _STEP + _AWAY * (normals * away).sum(-1)
    inward = np.bincount(pieces, vote) < 0
    normals[inward[pieces]] *= -1
    return torch.from_numpy(normals).float()
