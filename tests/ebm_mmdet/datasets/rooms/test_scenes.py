"""Generated rooms: exact maps, tight boxes, types that differ, and nothing but the seed."""

import numpy as np
import pytest

from ebm_mmdet.datasets.rooms import CLASSES, SCENE_TYPES, RoomOptions, render_room
from ebm_mmdet.datasets.rooms.assembly import Assembly
from ebm_mmdet.datasets.rooms.furniture import CLUTTER
from ebm_mmdet.datasets.rooms.layouts import draw_scene_type, furnish
from ebm_mmdet.datasets.rooms.pinhole import PinholeCamera
from ebm_mmdet.datasets.rooms.scenes import _STREAM
from ebm_mmdet.datasets.rooms.view import choose_view

SMALL = RoomOptions(image_size=(48, 64), min_pixels=4)


@pytest.fixture(scope="module")
def scenes():
    return [render_room(0, index, SMALL) for index in range(40)]


def assert_equal(first, second):
    for name in ("image", "depth", "face", "face_normals", "instance", "boxes", "labels"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    assert first.scene_type == second.scene_type


def test_a_scene_is_a_function_of_seed_and_index():
    assert_equal(render_room(3, 5, SMALL), render_room(3, 5, SMALL))
    assert (render_room(3, 5, SMALL).image != render_room(3, 6, SMALL).image).mean() > 0.5
    assert (render_room(3, 5, SMALL).image != render_room(4, 5, SMALL).image).mean() > 0.5


def test_types_and_shapes(scenes):
    for scene in scenes:
        n = len(scene.labels)
        assert scene.image.shape == (48, 64, 3)
        assert scene.image.dtype == np.uint8
        assert scene.depth.dtype == scene.normals.dtype == scene.boxes.dtype == np.float32
        assert scene.normals.shape == (48, 64, 3)
        assert scene.boxes.shape == (n, 4)
        assert scene.masks.shape == (n, 48, 64)
        assert scene.labels.dtype == np.int64
        assert scene.ignored.shape == scene.visible.shape == (n,)
        assert np.isfinite(scene.depth).all()
        assert scene.depth.min() > 0.1
        assert scene.image.std() > 8


@pytest.mark.parametrize("index", range(4))
def test_depth_normals_and_masks_are_those_of_the_nearest_solid(index):
    """The plain definition: every ray against every solid of the room."""
    scene = render_room(1, index, SMALL)
    layout, view = (np.random.default_rng([_STREAM, 1, index, k]) for k in range(2))
    room = furnish(layout, draw_scene_type(layout))
    eye, turn = choose_view(view, room)
    rays = PinholeCamera((48, 64), 0.81 * 64).rays()
    shell = room.shell()
    depth, face = shell.parts[0].moved(turn, turn @ (0 - eye)).last_face(rays)
    normals = -(shell.parts[0].normals @ turn.T)[face]
    owner = np.full(depth.shape, -1)
    for number, thing in enumerate(room.things):
        for part in thing.parts:
            moved = part.moved(turn @ thing.rotation, turn @ (thing.position - eye))
            found, plane = moved.first_face(rays)
            nearer = found < depth
            depth = np.where(nearer, found, depth)
            normals = np.where(nearer[..., None], moved.normals[plane], normals)
            owner[nearer] = number
    np.testing.assert_allclose(scene.depth, depth, rtol=1e-6)
    same = np.abs(scene.normals - normals).max(-1) < 1e-5
    assert same.mean() > 0.999  # on an edge either face may be seen
    labels = np.array([thing.label for thing in room.things])
    shown = np.where(owner >= 0, labels[owner], CLUTTER)
    expected = np.append(scene.labels, CLUTTER)[scene.instance.astype(int) - 1]
    assert (shown == expected).mean() > 0.999


def test_boxes_are_the_half_open_bounds_of_the_visible_pixels(scenes):
    for scene in scenes:
        for mask, box in zip(scene.masks, scene.boxes.astype(int)):
            left, top, right, bottom = box
            assert mask[top:bottom, left:right].sum() == mask.sum() > 0
            assert mask[top, left:right].any()
            assert mask[bottom - 1, left:right].any()
            assert mask[top:bottom, left].any()
            assert mask[top:bottom, right - 1].any()
            assert 0 <= left < right <= 64
            assert 0 <= top < bottom <= 48


def test_normals_are_those_of_the_surface_through_the_points_of_the_depth(scenes):
    """Inside a face, n is parallel to dP/dx x dP/dy of the points P = depth · ray."""
    rays = PinholeCamera((48, 64), 0.81 * 64).rays()
    checked = 0
    for scene in scenes:
        points = rays * scene.depth[..., None].astype(float)
        right = points[1:-1, 2:] - points[1:-1, :-2]
        down = points[2:, 1:-1] - points[:-2, 1:-1]
        normal = np.cross(down, right)
        normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
        face = scene.face
        inside = (face[1:-1, 2:] == face[1:-1, :-2]) & (face[2:, 1:-1] == face[:-2, 1:-1])
        inside &= face[1:-1, 2:] == face[2:, 1:-1]
        cosine = (normal * scene.normals[1:-1, 1:-1]).sum(-1)[inside]
        assert np.median(cosine) > 1 - 1e-6
        assert (cosine > 0.999).mean() > 0.99  # float32 of the depth at grazing angles
        checked += inside.sum()
    assert checked > 10_000


def test_normals_have_unit_length_and_face_the_camera(scenes):
    rays = PinholeCamera((48, 64), 0.81 * 64).rays()
    for scene in scenes:
        np.testing.assert_allclose(np.linalg.norm(scene.face_normals, axis=1), 1, rtol=1e-5)
        assert ((scene.normals * rays).sum(-1) < 0).all()


def test_the_floor_is_below_and_its_normal_points_up(scenes):
    lowest = [scene.normals[-1].mean(0) for scene in scenes]
    assert np.mean([n[1] > 0.5 for n in lowest]) > 0.6  # mostly floor, tables and beds


def test_the_room_does_not_depend_on_the_size_of_the_image():
    large = render_room(0, 2, RoomOptions(image_size=(144, 192)))
    small = render_room(0, 2, RoomOptions(image_size=(48, 64)))
    np.testing.assert_allclose(large.depth[1::3, 1::3], small.depth, rtol=1e-5)
    assert large.scene_type == small.scene_type
    assert set(small.labels) <= set(large.labels)


@pytest.mark.parametrize("size", [(1, 1), (17, 5), (480, 640)])
def test_any_size_works(size):
    scene = render_room(0, 0, RoomOptions(image_size=size))
    assert scene.image.shape[:2] == scene.depth.shape == size


def test_small_and_hidden_objects_are_ignored():
    strict = RoomOptions(image_size=(48, 64), min_pixels=30, min_visible=0.6)
    ignored = 0
    for index in range(10):
        scene = render_room(0, index, strict)
        pixels = scene.masks.sum((1, 2))
        expected = (pixels < 30) | (scene.visible < 0.6)
        np.testing.assert_array_equal(scene.ignored, expected)
        assert ((scene.visible > 0) & (scene.visible <= 1)).all()
        ignored += scene.ignored.sum()
    assert ignored > 0
    lenient = RoomOptions(image_size=(48, 64), min_pixels=1, min_visible=0)
    assert not any(render_room(0, index, lenient).ignored.any() for index in range(5))


def test_scene_types_differ_in_their_furniture():
    """Naive Bayes on the numbers of objects of each class knows the type."""
    rng = np.random.default_rng(0)
    counts = np.zeros((len(SCENE_TYPES), 18, len(CLASSES)))
    for number, name in enumerate(SCENE_TYPES):
        for row in counts[number]:
            labels = [t.label for t in furnish(rng, name).things if t.label != CLUTTER]
            row += np.bincount(labels, minlength=len(CLASSES))
    rate = counts[:, :12].mean(1) + 0.05
    test = counts[:, 12:]
    guess = (test @ np.log(rate).T - rate.sum(1)).argmax(-1)
    assert (guess == np.arange(len(SCENE_TYPES))[:, None]).mean() > 0.85
    assert (counts.sum((0, 1)) > 10).all()  # every class occurs


def test_every_scene_type_is_drawn():
    rng = np.random.default_rng(0)
    assert {draw_scene_type(rng) for _ in range(200)} == set(SCENE_TYPES)


def test_colour_tells_neither_class_nor_type(scenes):
    """The means of classes agree within the spread of one object's colour; those of types too."""
    by_class, by_type = [[] for _ in CLASSES], [[] for _ in SCENE_TYPES]
    for scene in scenes:
        by_type[scene.scene_type].append(scene.image.reshape(-1, 3).mean(0))
        for label, mask in zip(scene.labels, scene.masks.astype(bool)):
            by_class[label].append(scene.image[mask].mean(0))
    for groups, share in ((by_class, 0.4), (by_type, 0.8)):
        groups = [group for group in groups if len(group) >= 5]
        spread = np.mean([np.std(group, axis=0) for group in groups])
        assert len(groups) >= 4
        assert np.std([np.mean(group, axis=0) for group in groups], axis=0).max() < share * spread


def test_errors_name_the_value():
    with pytest.raises(ValueError, match="index=-1"):
        render_room(0, -1)
    with pytest.raises(ValueError, match=r"image_size=\(0, 4\)"):
        RoomOptions(image_size=(0, 4))
    with pytest.raises(ValueError, match="min_visible=1.5"):
        RoomOptions(min_visible=1.5)
    with pytest.raises(ValueError, match="focal=0"):
        RoomOptions(focal=0)
    with pytest.raises(ValueError, match=r"materials=\(2, 1\)"):
        RoomOptions(materials=(2, 1))
    with pytest.raises(TypeError, match="colour"):
        RoomOptions.from_config({"colour": 1})
    assert RoomOptions.from_config({"image_size": [4, 5]}).image_size == (4, 5)


def test_things_on_the_floor_do_not_touch():
    from ebm_mmdet.datasets.footprints import overlap

    for name in SCENE_TYPES:
        room = furnish(np.random.default_rng(1), name)
        prints = room.footprints
        assert len(prints) >= 2
        for k, corners in enumerate(prints):
            assert (np.abs(corners) <= np.array(room.size[:2]) / 2 + 0.1).all()
            assert not any(overlap(corners, other) for other in prints[:k])


def test_an_assembly_moves_every_part_as_convex_does():
    rng = np.random.default_rng(6)
    room = furnish(rng, "office")
    eye, turn = choose_view(rng, room)
    things = [room.shell(), *room.things]
    assembly = Assembly.build(things, eye, turn)
    parts = [
        part.moved(turn @ thing.rotation, turn @ (thing.position - eye))
        for thing in things
        for part in thing.parts
    ]
    for name in ("normals", "offsets", "vertices"):
        expected = np.concatenate([getattr(part, name) for part in parts])
        np.testing.assert_allclose(getattr(assembly, name), expected, atol=1e-12)
    assert len(assembly.thing_of_face) == len(assembly.normals) == assembly.face_start[-1]
