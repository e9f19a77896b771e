"""Light, shadows and patterns of generated rooms."""

import numpy as np

from ebm_mmdet.datasets.ray_casting import Convex
from ebm_mmdet.datasets.rooms.appearance import Light, Materials, patterns, photograph, shade
from ebm_mmdet.datasets.rooms.assembly import Assembly, shadow
from ebm_mmdet.datasets.rooms.furniture import CLUTTER, Furniture
from ebm_mmdet.datasets.rooms.layouts import furnish
from ebm_mmdet.datasets.rooms.picture import assign_materials
from ebm_mmdet.datasets.rooms.solids import block

EYE, TURN = np.zeros(3), np.eye(3)


def blocked(point, light, solid: Convex) -> bool:
    """The plain definition: some point of the segment from the lamp lies in the solid."""
    steps = np.linspace(0.001, 0.985, 2000)[:, None]
    points = light + steps * (point - light)
    return bool((points @ solid.normals.T <= solid.offsets).all(1).any())


def test_shadow_is_where_a_solid_meets_the_segment_to_the_lamp():
    rng = np.random.default_rng(0)
    light = np.array([0.1, -0.2, 3.0])
    things = [Furniture(CLUTTER, [block((-9, -9, -9), (9, 9, 9))], (1, 1, 1))]
    for _ in range(4):
        low = rng.uniform(-1.5, 1, 3)
        things.append(Furniture(CLUTTER, [block(low, low + rng.uniform(0.2, 1, 3))], (1, 1, 1)))
    points = rng.uniform((-2, -2, -2), (2, 2, 0), (150, 3))
    found = shadow(points, light, Assembly.build(things, EYE, TURN))
    solids = [thing.parts[0] for thing in things[1:]]
    expected = [any(blocked(point, light, solid) for solid in solids) for point in points]
    assert 20 < np.sum(expected) < 130
    assert (found == expected).mean() > 0.98  # steps miss what a segment only grazes


def test_a_lit_surface_does_not_shade_itself():
    walls = Furniture(CLUTTER, [block((-9, -9, 0), (9, 9, 9))], (1, 1, 1))
    table = Furniture(CLUTTER, [block((-1, -1, 0), (1, 1, 1))], (1, 1, 1))
    top = np.column_stack([np.random.default_rng(0).uniform(-0.9, 0.9, (50, 2)), np.ones(50)])
    assembly = Assembly.build([walls, table], EYE, TURN)
    assert not shadow(top, np.array([0.3, 0.2, 3.0]), assembly).any()
    assert shadow(top - (0, 0, 0.9), np.array([0.3, 0.2, 3.0]), assembly).all()


def test_light_is_the_closed_form():
    """ambient (0.8 + 0.2 n · up) + lit colour cos / (1 + (d / reach)²)."""
    point = np.array([[[0.0, 0.0, -2.0]]], np.float32)
    normal, up = np.array([[[0.0, 0.0, 1.0]]], np.float32), np.array([0.0, 1.0, 0.0])
    light = Light(np.array([3.0, 0.0, 2.0]), np.array([1, 2, 3], np.float32), 5.0)
    for lit in (1.0, 0.25):
        share = np.full((1, 1), lit, np.float32)
        found = shade(point, normal, up, [light], np.full(3, 0.5, np.float32), share)
        expected = 0.5 * 0.8 + lit * np.array([1, 2, 3]) * (4 / 5) / (1 + 1)
        np.testing.assert_allclose(found[0, 0], expected, rtol=1e-6)
    behind = shade(point, -normal, up, [light], np.zeros(3, np.float32), np.ones((1, 1)))
    assert not behind.any()


def test_patterns_are_in_range_and_repeat():
    tiles = patterns()
    assert tiles.dtype == np.float32
    assert tiles.min() >= 0
    assert tiles.max() <= 1
    smooth = tiles[6::8]  # spots: no jump at the seam that is larger than elsewhere
    seam = np.abs(smooth[:, :, 0] - smooth[:, :, -1]).mean()
    assert seam < 2.5 * np.abs(np.diff(smooth, axis=2)).mean()


def test_a_pattern_sticks_to_its_object():
    """texel(R p + t) of an object moved by (R, t) = texel(p) of the object before."""
    rng = np.random.default_rng(0)
    materials = Materials.draw(rng, 3)
    normals = rng.standard_normal((5, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    turn = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    shift, points = rng.uniform(-1, 1, 3), rng.uniform(-1, 1, (5, 3))
    which = np.array([0, 1, 2, 0, 1])
    still = materials.texture_maps(which, normals, np.tile(np.eye(3), (5, 1, 1)), np.zeros((5, 3)))
    moved = materials.texture_maps(which, normals, np.tile(turn, (5, 1, 1)), np.tile(shift, (5, 1)))

    def texels(maps, at):
        return np.einsum("fkj,fj->fk", maps[..., :3], at) + maps[..., 3]

    np.testing.assert_allclose(
        texels(moved, points @ turn.T + shift), texels(still, points), atol=2e-4
    )


def test_materials_do_not_know_what_a_thing_is():
    rng = np.random.default_rng(0)
    room = furnish(rng, "living_room")
    things = [room.shell(), *room.things]
    assembly = Assembly.build(things, EYE, TURN)
    other = [Furniture(0, thing.parts, thing.size) for thing in things]
    first, second = (
        assign_materials(np.random.default_rng(5), a, 8)
        for a in (assembly, Assembly.build(other, EYE, TURN))
    )
    np.testing.assert_array_equal(first, second)
    assert set(first) <= set(range(8))
    assert len(set(first)) > 3


def test_a_photograph_of_darkness_is_dark_and_finite():
    rng = np.random.default_rng(0)
    image = photograph(rng, np.zeros((8, 9, 3), np.float32))
    assert image.shape == (8, 9, 3)
    assert image.mean() < 20
