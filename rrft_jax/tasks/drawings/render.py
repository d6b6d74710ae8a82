"""Pictures of cubes, spheres and cylinders on a ground, by rays cast with NumPy.

A solid is the overlap of slabs and a round: a cube is three slabs, a sphere one round of three
axes, a cylinder one slab and one round of two. A ray is inside each of them for one interval of its
length. So it is inside the solid for the overlap of these intervals. One function finds that
interval, for three uses: the surface that the camera sees, the length of the way through glass, and
the shadows (rays from the ground to the light).

A solid covers a small part of the picture, so each solid is a layer of its own. The layer is cast
only there, at `FINE` rays per pixel and axis. It is averaged down to colours and opacities, and
laid over the layers behind it.
The world: x to the right and y away from the central camera, z up, the ground at z = 0.
"""

import dataclasses
import functools

import numpy as np
from PIL import Image

FINE = 3
GROUND = 2.0  # the marked square reaches this far from the centre, lined at every unit
SHAPES = {"cube": ((0, 1, 2), ()), "sphere": ((), (0, 1, 2)), "cylinder": ((2,), (0, 1))}
_ELEVATION = np.radians(48)
_DISTANCE = 12
_FIELD = 0.243  # tangent of half the angle of view
_TURN = np.radians(24)  # turn of every solid, so that three faces of a cube are visible


def _unit(vector) -> np.ndarray:
    vector = np.asarray(vector, np.float32)
    return vector / np.sqrt((vector * vector).sum(0))


_LIGHT = _unit([-0.42, -0.34, 0.84])  # the direction towards the light
_LOCAL = np.array(  # the world's axes -> a solid's
    [[np.cos(_TURN), np.sin(_TURN), 0], [-np.sin(_TURN), np.cos(_TURN), 0], [0, 0, 1]], np.float32
)
_LOCAL_LIGHT = _LOCAL @ _LIGHT
_CORNERS = np.stack(np.meshgrid([-1, 1], [-1, 1], [-1, 1]), -1).reshape(8, 3) @ _LOCAL


@dataclasses.dataclass(frozen=True)
class Solid:
    """A solid that stands on the ground at (x, y), twice its radius wide and high."""

    shape: str  # one of SHAPES
    material: str  # "rubber", "metal", "glass"
    color: tuple[int, int, int]  # RGB, 0..255
    x: float
    y: float
    radius: float

    @property
    def centre(self) -> np.ndarray:
        return np.array([self.x, self.y, self.radius], np.float32)

    @property
    def corners(self) -> np.ndarray:
        """The corners [8, 3] of the cube around the solid."""
        return self.centre + self.radius * _CORNERS


@dataclasses.dataclass(frozen=True)
class Camera:
    """A camera that looks at the ground's middle, `azimuth` degrees to the right of the centre."""

    azimuth: float
    size: int  # pixels, across and down

    @functools.cached_property
    def axes(self) -> np.ndarray:
        """The camera's axes [3, 3]: right, up and forward."""
        turn, rise = np.radians(self.azimuth), _ELEVATION
        right = np.array([np.cos(turn), np.sin(turn), 0])
        ahead = np.array([-np.sin(turn), np.cos(turn), 0])
        forward = np.cos(rise) * ahead - np.sin(rise) * np.array([0, 0, 1])
        return np.stack([right, np.cross(right, forward), forward]).astype(np.float32)

    @functools.cached_property
    def eye(self) -> np.ndarray:
        return np.array([0, 0, -0.1], np.float32) - _DISTANCE * self.axes[2]

    def project(self, points: np.ndarray) -> np.ndarray:
        """Project points [..., 3] of the world to pixels [..., 2], across and down."""
        right, up, forward = np.moveaxis((points - self.eye) @ self.axes.T, -1, 0)
        across, down = right / forward / _FIELD, -up / forward / _FIELD
        return (np.stack([across, down], -1) + 1) * self.size / 2

    def window(self, points: np.ndarray) -> tuple[slice, slice]:
        """Return (rows, columns) of the smallest part of the picture that shows these points."""
        pixels = self.project(points)
        start = np.clip(np.floor(pixels.min(0)), 0, self.size).astype(int)
        stop = np.clip(np.ceil(pixels.max(0)), 0, self.size).astype(int)
        return slice(start[1], stop[1]), slice(start[0], stop[0])

    def rays(self, window: tuple[slice, slice], fine: int = FINE) -> np.ndarray:
        """Return unit vectors [3, rows * fine, columns * fine] from the eye."""
        down, across = (
            ((np.arange(w.start * fine, w.stop * fine, dtype=np.float32) + 0.5) / fine)
            * (2 * _FIELD / self.size)
            - _FIELD
            for w in window
        )
        right, up, forward = self.axes[:, :, None, None]
        return _unit(forward + across * right - down[:, None] * up)

    def on_ground(self, rays: np.ndarray) -> np.ndarray:
        """Return the points [3, ...] where rays from the eye meet the ground."""
        return self.eye[:, None, None] - rays * (self.eye[2] / rays[2])


def render(solids: tuple[Solid, ...], camera: Camera) -> Image.Image:
    """Draw the picture of `solids`, which don't touch."""
    canvas = _ground(camera).copy()
    cast = _cast_once if camera.size <= _SMALL else _cast
    layers = {solid: cast(solid, camera) for solid in solids}
    for shadow, _ in layers.values():
        _lay(canvas, *shadow)
    # Draw the farthest first, because nearer solids hide farther ones.
    for solid in sorted(solids, key=lambda s: -np.sum((s.centre - camera.eye) ** 2)):
        _lay(canvas, *layers[solid][1])
    return Image.fromarray(canvas.clip(0, 255).astype(np.uint8).transpose(1, 2, 0))


def _cast(solid: Solid, camera: Camera):
    """Return the layers of the solid's shadow and of the solid itself."""
    return _shadow(solid, camera), _layer(solid, camera)


# A layer of a small picture is some kilobytes, and scenes of a grid have few different ones.
_SMALL = 128
_cast_once = functools.lru_cache(maxsize=4096)(_cast)


def _lay(canvas: np.ndarray, window: tuple[slice, slice], layer: np.ndarray) -> None:
    """Lay [4, rows, columns], colours times opacity and opacity, over a part of the canvas."""
    part = canvas[:, *window]
    part *= 1 - layer[3]
    part += layer[:3]


@functools.lru_cache(maxsize=8)
def _ground(camera: Camera) -> np.ndarray:
    """Return the ground [3, size, size] in warm light from the left, cool from the right.

    It has the thin lines of the square.
    """
    x, y, _ = camera.on_ground(camera.rays((slice(0, camera.size),) * 2))
    reach = np.maximum(np.abs(x), np.abs(y)) - GROUND
    inner = np.minimum(np.abs(x - x.round()), np.abs(y - y.round()))
    lines = 34 * (np.abs(reach) < 0.035) + 12 * (inner < 0.02) * (reach < 0)
    light = 138 - 26 * np.tanh(y / 4) - 24 * np.tanh((x * x + y * y) / 40)
    warmth = np.tanh(x / 4) * np.array([24, 0, -24], np.float32)[:, None, None]
    return _average(light + lines - warmth)


def _shadow(solid: Solid, camera: Camera) -> tuple[tuple[slice, slice], np.ndarray]:
    """Return the layer of a solid's shadow, soft where light passes through little of the solid."""
    corners = solid.corners
    corners = np.concatenate([corners, corners - _LIGHT * (corners[:, 2:] / _LIGHT[2])])
    window = camera.window(corners * [1, 1, 0])
    points = camera.on_ground(camera.rays(window, fine=1)) - solid.centre[:, None, None]
    points = _local(points) / solid.radius
    enter, leave = _interval(solid.shape, points, _LOCAL_LIGHT[:, None, None])
    dark = 0.5 * np.clip((leave - enter) / 0.7, 0, 1)
    layer = np.zeros((4, *dark.shape), np.float32)
    layer[3] = dark
    if solid.material == "glass":  # light of the glass's own colour passes through
        layer[:3] = 0.4 * dark * np.asarray(solid.color, np.float32)[:, None, None]
    return window, layer


def _layer(solid: Solid, camera: Camera) -> tuple[tuple[slice, slice], np.ndarray]:
    """Return the layer of a solid."""
    window = camera.window(solid.corners)
    rays = _local(camera.rays(window))
    eye = _LOCAL @ (camera.eye - solid.centre) / solid.radius
    enter, leave = _interval(solid.shape, eye[:, None, None], rays)
    hit = enter < leave
    rays, enter, leave = rays[:, hit], enter[hit], leave[hit]
    points, behind = (eye[:, None] + t * rays for t in (enter, leave))
    front, back = _normal(solid.shape, points), _normal(solid.shape, behind)
    color, opacity = _MATERIALS[solid.material](
        np.asarray(solid.color, np.float32)[:, None], rays, points, front, back, leave - enter
    )
    layer = np.zeros((4, *hit.shape), np.float32)
    layer[:, hit] = np.concatenate([color.clip(0, 255) * opacity, opacity[None]])
    return window, _average(layer)


def _interval(shape: str, origin: np.ndarray, rays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return t where origin + t * ray enters and leaves a solid, in its own axes and radii.

    Args:
      shape: one of SHAPES.
      origin, rays: arrays [3, ...] whose shapes broadcast.

    Returns:
      (t at entry, t at exit), [...]. If a ray misses the solid, t at exit is not after t at entry.
    """
    slabs, round_ = SHAPES[shape]
    spans = []
    for axis in slabs:
        middle, half = -origin[axis] / rays[axis], 1 / np.abs(rays[axis])
        spans.append((middle - half, middle + half))
    if round_:
        axes = slice(0, len(round_))
        a = (rays[axes] ** 2).sum(0)
        b = (origin[axes] * rays[axes]).sum(0)
        c = (origin[axes] ** 2).sum(0) - 1
        half = np.sqrt(np.maximum(b * b - a * c, 0))
        spans.append(((-b - half) / a, (-b + half) / a))
    enters, leaves = zip(*spans)
    return functools.reduce(np.maximum, enters), functools.reduce(np.minimum, leaves)


def _normal(shape: str, points: np.ndarray) -> np.ndarray:
    """Return the normals [3, n] of the faces on which these points of the surface lie farthest."""
    slabs, round_ = SHAPES[shape]
    reach = [np.abs(points[axis]) for axis in slabs]
    if round_:
        reach.append(np.sqrt((points[: len(round_)] ** 2).sum(0)))
    face = np.argmax(reach, axis=0)
    normal = np.zeros_like(points)
    for number, axis in enumerate(slabs):
        normal[axis] = np.sign(points[axis]) * (face == number)
    if round_:
        normal[: len(round_)] += points[: len(round_)] * (face == len(slabs))
    return normal


def _rubber(color, rays, points, front, back, depth):
    """Return the colour of a matte surface: light spreads alike in all directions."""
    return color * (0.38 + 0.72 * _lit(front)), np.ones_like(depth)


def _metal(color, rays, points, front, back, depth):
    """Return the colour of metal: a tinted mirror of a round room and of the lamp.

    The room has a dark horizon and bars of light.
    """
    mirrored = rays - 2 * (rays * front).sum(0) * front
    seen = _unit(points + 2 * mirrored)
    room = np.interp(seen[2], _HEIGHTS, _BRIGHTNESS).astype(np.float32)
    bars = (np.sin(13 * seen[0] + 1) > 0.55) * np.maximum(seen[2] - 0.3, 0)
    glare = 0.5 * bars + _lit(mirrored) ** 40
    return color * (0.1 + 0.2 * _lit(front) + room) + 330 * glare, np.ones_like(depth)


_HEIGHTS = [-1, -0.8, -0.3, -0.05, 0.3, 0.5, 1]  # from floor to ceiling
_BRIGHTNESS = [0.95, 0.6, 0.1, 0.0, 0.1, 0.5, 0.9]


def _glass(color, rays, points, front, back, depth):
    """Return the colour of clear glass.

    It is more opaque the longer the way through it is, lit from inside, and dark towards its rim.
    """
    facing = -(rays * front).sum(0)
    inside = 0.2 + 1.0 * _lit(-back) * facing + 0.1 * depth
    glare = _lit(rays - 2 * (rays * front).sum(0) * front) ** 90
    opacity = np.clip(0.45 + 0.2 * depth + 0.4 * (1 - facing) ** 3, 0, 0.92)
    return color * inside + 300 * glare, np.maximum(opacity, glare)


_MATERIALS = {"rubber": _rubber, "metal": _metal, "glass": _glass}


def _lit(directions: np.ndarray) -> np.ndarray:
    """Return how far unit vectors [3, n] in a solid's axes point towards the light, 0..1."""
    return np.maximum(_LOCAL_LIGHT @ directions, 0)


def _local(vectors: np.ndarray) -> np.ndarray:
    """Turn vectors [3, ...] from the world's axes into a solid's axes."""
    return np.tensordot(_LOCAL, vectors, 1)


def _average(fine: np.ndarray) -> np.ndarray:
    """Average [channels, rows * FINE, columns * FINE] to [channels, rows, columns]."""
    channels, rows, columns = fine.shape
    return fine.reshape(channels, rows // FINE, FINE, columns // FINE, FINE).mean((2, 4))
