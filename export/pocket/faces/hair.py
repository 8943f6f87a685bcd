"""Draw hair behind the head, and locks, curls or short hair in front."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from export.pocket.faces.canvas import Mask, Points, curve, ellipse, ribbon
from export.pocket.faces.drawing_context import DrawingContext, mirrored, mix, tone, wave
from export.pocket.faces.hair_styles import BACK, CROP, CURLS, FRINGE, LOCKS, Lock
from export.pocket.faces.people import Colour

_SHEEN: Colour = (255, 240, 220)
_Tuft = NDArray[np.float64]  # (k, points, 2): positions of strands along the edges, and from the outer to the inner
_SHADES = ((0.64, 0.6), (0.8, 0.55), (1.1, 0.55))  # of strands: tone and opacity
_FRINGED = ("bob", "long")


def draw_back_hair(ctx: DrawingContext) -> None:
    """Draw the hair behind neck and ears, and a bun.

    Args:
        ctx: Canvas, person and pose of the drawing.
    """
    person, u = ctx.person, ctx.unit
    if person.style in ("bald", "buzz"):
        return
    if person.style == "curly":
        _draw_curls(ctx, 0.55, _curly_edges(ctx, behind=True))
        return
    back = np.array(mirrored(BACK.get(person.style, BACK["short"])))
    # From the middle of the head to its back, so that no gap opens between hair and face when the head rotates.
    shape = [curve(ctx.head.hang(_voluminous(ctx, back), depth=depth)) for depth in (0.3, 0, -0.3)]
    ctx.canvas.fill(shape, tone(person.hair, 0.6))
    if person.style == "bun":
        knot = ctx.head.place(ellipse(0, -1.92, 0.46, 0.38), depth=-0.2)
        inside = ctx.canvas.mask(knot)
        ctx.canvas.fill(knot, person.hair)
        lit = ctx.head.place(ellipse(-0.14 * ctx.away, -2.05, 0.2, 0.1, 20), depth=-0.2)
        ctx.canvas.fill(lit, mix(person.hair, _SHEEN, 0.3), soft=0.06 * u, within=inside, opacity=0.8)
        low = ctx.head.place(ellipse(0.1 * ctx.away, -1.6, 0.6, 0.2, 20), depth=-0.2)
        ctx.canvas.fill(low, tone(person.hair, 0.5), soft=0.06 * u, within=inside, opacity=0.8)


def draw_hair(ctx: DrawingContext, skin: Mask) -> None:
    """Draw the hair in front, with its shadow on the skin.

    Args:
        ctx: Canvas, person and pose of the drawing.
        skin: Coverage of the face, to which the drawing is clipped.
    """
    person = ctx.person
    if person.style == "bald":
        ctx.glow([(-0.25, -1.2, 0.32, 0.13, tone(ctx.light, 1.4), 0.1, 0.5)], skin)
    elif person.style == "buzz":
        outline = np.concatenate(_edges(ctx, CROP))
        ctx.canvas.fill(outline, mix(person.hair, ctx.deep, 0.25), soft=0.035 * ctx.unit, within=skin, opacity=0.85)
    elif person.style == "curly":
        edges = _curly_edges(ctx, behind=False)
        _draw_shadow(ctx, np.concatenate(edges), skin)
        _draw_curls(ctx, 1.0, edges)
    else:
        locks = (FRINGE,) * (person.fringe and person.style in _FRINGED) + LOCKS[person.style]
        for number, lock in enumerate(locks):
            edges = _edges(ctx, lock)
            _draw_shadow(ctx, np.concatenate(edges), skin)
            _draw_lock(ctx, edges, lock.across, number)


def _voluminous(ctx: DrawingContext, points: ArrayLike) -> Points:
    """Scale the outer edge of hair by its volume, and mirror it to the side of the parting."""
    flat = np.array(points, float)
    above = 1 + (ctx.person.volume - 1) * np.clip(1.2 - 0.5 * flat[:, 1], 0, 1)
    return np.stack(
        [-ctx.person.parting * flat[:, 0] * above, -0.3 + (flat[:, 1] + 0.3) * np.minimum(above, 1.08)], axis=1
    )


def _edges(ctx: DrawingContext, lock: Lock) -> tuple[Points, Points]:
    """Return the edges (n, 2) in pixels; the inner one is reversed, so that both together are an outline."""
    person, head = ctx.person, ctx.head
    outer = curve(_voluminous(ctx, lock.outer), closed=False)
    inner = curve(np.array(lock.inner) * (-person.parting, 1), closed=False)
    swing = 0.1 * person.wave if person.style in ("long", "bob") else 0.0
    outer, inner = wave(outer, swing, 0.9, 0.0), wave(inner, swing, 0.9, 0.2)
    return head.rim(outer), head.hang(inner, 0.04)[::-1]


def _draw_shadow(ctx: DrawingContext, outline: Points, skin: Mask) -> None:
    shadow = outline + np.array([0.02 * ctx.away, 0.06]) * ctx.unit
    ctx.canvas.fill(shadow, (60, 36, 30), soft=0.06 * ctx.unit, opacity=0.4, within=skin)


def _draw_lock(ctx: DrawingContext, edges: tuple[Points, Points], across: bool, number: int) -> None:
    """Draw strands between two edges, the same in every pose, so that they do not flicker."""
    canvas, u, colour = ctx.canvas, ctx.unit, ctx.person.hair
    outline = np.concatenate(edges)
    inside = canvas.mask(outline)
    canvas.fill(outline, colour)
    paint = [
        (mix(colour, _SHEEN, 0.1) if shade > 1 else tone(colour, shade), opacity, 0.01) for shade, opacity in _SHADES
    ]
    paint.append((mix(colour, _SHEEN, 0.35), 0.3 if across else 0.5, 0.04 if across else 0.02))
    tufts = _tufts(28 if canvas.detailed else 14, across, number)
    for (shade, opacity, soft), (tuft, widths) in zip(paint, tufts, strict=True):
        lines = _between(edges, tuft)
        canvas.fill(list(ribbon(lines, widths * u)), shade, soft=soft * u, opacity=opacity, within=inside)


@lru_cache(maxsize=64)
def _tufts(count: int, across: bool, number: int) -> list[tuple[_Tuft, NDArray[np.float64]]]:
    """Return strands for each of `_SHADES` and for the highlight, and their widths (k, 3) in half face widths."""
    rng = np.random.default_rng(7 + number)
    groups = []
    thick = 28 / count  # fewer strands are wider
    for share in (0.35, 0.3, 0.35):
        strands = max(2, round(share * count))
        low, high = np.sort(rng.uniform(0, 1, (2, strands)), axis=0)
        span = (
            np.linspace(0.3 * low, 0.7 + 0.3 * high, 10, axis=1)
            if not across
            else np.linspace(0.1 * low, high, 10, axis=1)
        )
        groups.append(_strands(rng, span, across, (0.02, 0.98), thick))
    start, reach = rng.uniform(0.2, 0.3, max(4, round(0.5 * count))), 0.4 if across else 0.14
    span = np.linspace(start, start + reach, 6, axis=1)
    groups.append(_strands(rng, span, across, (0.15, 0.85) if across else (0.1, 0.7), (1.8 if across else 0.9) * thick))
    return groups


def _strands(
    rng: np.random.Generator, span: NDArray[np.float64], across: bool, spread: tuple[float, float], thick: float
) -> tuple[_Tuft, NDArray[np.float64]]:
    """Return parallel strands with given positions `span` (k, points) along their length."""
    count = len(span)
    aside = (np.linspace(*spread, count) + rng.uniform(-0.4, 0.4, count) / count)[:, None] + np.zeros_like(span)
    aside = np.clip(aside, 0, 1)
    if across:
        aside = np.clip(aside + 0.05 * (span - 0.5), 0, 1)
    tuft = np.stack([aside, span] if across else [span, aside], axis=-1)
    widths = rng.uniform(0.02, 0.055, count) * thick
    return tuft, widths[:, None] * np.array([0.0, 1.0, 0.0])


def _between(edges: tuple[Points, Points], tuft: _Tuft) -> Points:
    """Map positions along and between the edges to pixels, (k, points, 2)."""
    outer, inner = edges[0], edges[1][::-1]
    along = tuft[..., 0] * (len(outer) - 1)
    first = np.minimum(along.astype(int), len(outer) - 2)
    part, share = (along - first)[..., None], tuft[..., 1:]
    start, end = (edge[first] + part * (edge[first + 1] - edge[first]) for edge in (outer, inner))
    lines: Points = start + share * (end - start)
    return lines


def _curly_edges(ctx: DrawingContext, behind: bool) -> tuple[Points, Points]:
    """Return the edges of curly hair in front or behind the head, down to the ears or the jaw."""
    longer, head = 1 + 2.2 * ctx.person.wave, ctx.head
    outer, inner = np.array(CURLS.outer), np.array(CURLS.inner) * (-ctx.person.parting, 1)
    for edge in (outer, inner):
        edge[:, 1] = np.where(edge[:, 1] > -0.3, -0.3 + (edge[:, 1] + 0.3) * longer, edge[:, 1])
    outer = _evenly(_voluminous(ctx, 1.02 * outer if behind else outer))
    if behind:
        return head.hang(outer, depth=-0.2), head.hang(_evenly(inner * (0.6, 0.9)), depth=-0.2)[::-1]
    return head.rim(outer), head.hang(_evenly(inner), 0.04)[::-1]


def _evenly(points: Points) -> Points:
    """Return 64 equidistant points of a curve."""
    line = curve(points, closed=False)
    way = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(line, axis=0).T))])
    places = np.linspace(0, way[-1], 64)
    return np.stack([np.interp(places, way, line[:, 0]), np.interp(places, way, line[:, 1])], axis=1)


def _draw_curls(ctx: DrawingContext, brightness: float, edges: tuple[Points, Points]) -> None:
    """Draw round curls, each with a dark and a light side."""
    canvas, u, colour = ctx.canvas, ctx.unit, tone(ctx.person.hair, brightness)
    places, sizes = _curls(round(16 + 8 * ctx.person.wave))
    centres, radii = _between(edges, places[:, None])[:, 0], sizes * u
    toward = np.array([-0.3 * ctx.away, -0.35])

    def discs(size: float, offset: float) -> list[Points]:
        moved = centres + offset * toward * radii[:, None]
        return list(moved[:, None] + size * radii[:, None, None] * ellipse(0, 0, 1, 1, 12))

    bulk = [np.concatenate(edges), *discs(1, 0)]
    inside = canvas.mask(bulk)
    canvas.fill(bulk, colour)
    canvas.fill(discs(0.75, -0.9), tone(colour, 0.66), soft=0.05 * u, within=inside, opacity=0.75)
    canvas.fill(discs(0.55, 0.25), tone(colour, 1.03), soft=0.04 * u, within=inside, opacity=0.9)
    canvas.fill(discs(0.25, 0.9), mix(colour, _SHEEN, 0.25 * brightness), soft=0.04 * u, within=inside, opacity=0.6)
    if canvas.detailed:
        arcs = [disc[number % 6 : number % 6 + 7] for number, disc in enumerate(discs(0.57, 0))]
        canvas.fill(
            [ribbon(arc, [0, 0.02 * u, 0]) for arc in arcs],
            tone(colour, 0.55),
            soft=0.01 * u,
            within=inside,
            opacity=0.6,
        )


@lru_cache(maxsize=16)
def _curls(count: int) -> tuple[_Tuft, NDArray[np.float64]]:
    """Return positions (k, 2) of curls along and between the edges, and radii (k,) in half face widths."""
    rng = np.random.default_rng(5)
    rows = []
    for across, share in ((0.04, 1.0), (0.36, 1.0), (0.72, 0.9)):
        along = np.linspace(0, 1, round(share * count))
        along = along + rng.uniform(-0.3, 0.3, len(along)) / count
        rows.append(np.stack([along, across + rng.uniform(-0.07, 0.07, len(along))], axis=1))
    places = np.clip(np.concatenate(rows), 0, 1)
    return places, rng.uniform(0.14, 0.2, len(places))
