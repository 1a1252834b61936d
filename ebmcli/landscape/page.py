"""A map as a page to touch: one offline HTML file."""

from __future__ import annotations

import html
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ebmcli.landscape.barriers import BETWEEN
from ebmcli.landscape.draw import ceiling, layout, portraits
from ebmcli.landscape.mapping import Landscape
from ebmcli.landscape.tree import joins
from ebmcli.media.page import Page, png_uri

COLUMNS = 20
"""Pictures in a row of the sheet that holds all states."""

_STYLE = """
.map { position: relative; overflow-x: auto; margin: 1rem 0; border: 1px solid var(--line); border-radius: 6px; }
.map svg { display: block; margin: 0 auto; }
.map .stem, .map .bar { stroke: var(--ink); stroke-width: 1.2; fill: none; }
.map .bar { stroke-width: 2; }
.map .unknown { stroke: var(--soft); stroke-dasharray: 2 4; stroke-width: 1.2; }
.map text { fill: var(--soft); font: 11px system-ui, sans-serif; }
.map .leaf circle { fill: #2b5c8a; } .map .leaf text { fill: #fff; font-size: 10px; text-anchor: middle; }
.map .leaf, .map .join { cursor: pointer; outline: none; }
.map .leaf .touch, .map .join .touch { fill: transparent; stroke: transparent; stroke-width: 18; }
.map .leaf:hover .touch, .map .leaf:focus-visible .touch { fill: #2b5c8a22; }
.map .join:hover .bar, .map .join:focus-visible .bar { stroke-width: 4; }
.map .leaf.here .touch { fill: #c8553d33; } .map .leaf.before .touch { fill: #2b5c8a33; }
.map .leaf.here circle { fill: #c8553d; }
.tile { display: inline-block; background-repeat: no-repeat; image-rendering: pixelated; margin: 0 3px 3px 0; }
.members { max-height: 15rem; overflow-y: auto; margin-top: .5rem; line-height: 0; }
.walk { display: grid; grid-template-columns: auto 1fr; gap: 1rem; align-items: center; }
.walk svg { width: 100%; height: auto; }
.walk .curve { stroke: #2b5c8a; stroke-width: 2; fill: none; } .walk .dot { fill: #c8553d; }
.strip { overflow-x: auto; white-space: nowrap; line-height: 0; padding-bottom: .3rem; }
input[type=range] { width: 100%; height: 2rem; accent-color: #c8553d; }
@media (max-width: 600px) { .walk { grid-template-columns: 1fr; } .walk .large { justify-self: center; } }
"""

_SCRIPT = """
const D = JSON.parse(document.getElementById("data").textContent);
const $ = id => document.getElementById(id);
let here = null, before = null;

function tile(uri, x, y, w, h, size, sheetW, sheetH) {
  const t = document.createElement("span"), k = size / w;
  t.className = "tile";
  t.style.cssText = `width:${size}px;height:${h * k}px;background-image:url(${uri});` +
    `background-position:${-x * k}px ${-y * k}px;background-size:${sheetW * k}px ${sheetH * k}px`;
  return t;
}
function picture(state, size) {
  const s = D.sheet, c = state % s.columns, r = Math.floor(state / s.columns);
  return tile(s.uri, c * s.w, r * s.h, s.w, s.h, size, s.columns * s.w, s.rows * s.h);
}
function frame(step, size) {
  const s = D.sheet, route = D.routes[step.route];
  return tile(route.uri, step.node * s.w, 0, s.w, s.h, size, route.nodes * s.w, s.h);
}
// The lowest path between two basins follows the joins of the tree: it is the only way along them.
function way(from, to) {
  const queue = [[from, []]], seen = new Set([from]);
  while (queue.length) {
    const [at, edges] = queue.shift();
    if (at === to) return edges;
    D.routes.forEach((r, i) => {
      const next = r.a === at ? r.b : r.b === at ? r.a : null;
      if (next !== null && !seen.has(next)) { seen.add(next); queue.push([next, [...edges, [i, r.a === at]]]); }
    });
  }
  return null;
}
function walk(edges) {
  const steps = [], energy = [];
  edges.forEach(([i, forward], number) => {
    const r = D.routes[i], nodes = [...Array(r.nodes).keys()], u = [...r.energy];
    if (!forward) { nodes.reverse(); u.reverse(); }
    if (number) { nodes.shift(); u.shift(); }
    nodes.forEach(node => steps.push({ route: i, node }));
    energy.push(...u);
  });
  return { steps, energy };
}
const round = u => Number(u.toPrecision(6)).toLocaleString("en", { maximumFractionDigits: 3 });

function show(basin) {
  if (basin === here) { before = null; } else { before = here; here = basin; }
  draw();
}
function draw() {
  document.querySelectorAll(".leaf").forEach(leaf => {
    const basin = Number(leaf.dataset.basin);
    leaf.classList.toggle("here", basin === here);
    leaf.classList.toggle("before", basin === before);
  });
  const b = D.basins[here];
  $("hint").hidden = true;
  $("basin").hidden = false;
  $("basin-title").textContent = `Basin ${here + 1}`;
  $("basin-facts").textContent = `${b.members.length} ${b.members.length === 1 ? "member" : "members"}, ` +
    `lowest energy ${round(b.energy)}. The first is the lowest.`;
  $("members").replaceChildren(...b.members.map(m => picture(m, 44)));
  $("path").hidden = before === null;
  if (before === null) return;
  $("path-title").textContent = `From basin ${before + 1} to basin ${here + 1}`;
  const edges = way(before, here);
  $("walk").hidden = $("strip").hidden = $("at").hidden = edges === null;
  if (edges === null) {
    $("path-facts").textContent = "No path was found between these two.";
    return;
  }
  const { steps, energy } = walk(edges), top = Math.max(...energy), low = Math.min(...energy);
  const over = edges.length - 1;
  const through = over ? ` It leads through ${over} other ${over === 1 ? "basin" : "basins"}.` : "";
  $("path-facts").textContent = `Highest energy ${round(top)}: ${round(top - energy[0])} above basin ${before + 1}, ` +
    `${round(top - energy[energy.length - 1])} above basin ${here + 1}.${through}`;
  const W = 600, H = 150, x = i => 8 + i / (energy.length - 1) * (W - 16),
    y = u => 20 + (top - u) / Math.max(top - low, 1e-9) * (H - 40);
  const svg = $("curve");
  svg.setAttribute("viewBox", `0 0 ${W} ${H}`);
  svg.innerHTML = `<polyline class="curve" points="${energy.map((u, i) => `${x(i)},${y(u)}`).join(" ")}"/>` +
    `<circle class="dot" r="5"/>`;
  const each = D.between;
  function at(i) {
    const k = Math.min(i * each, energy.length - 1), dot = svg.querySelector(".dot");
    dot.setAttribute("cx", x(k));
    dot.setAttribute("cy", y(energy[k]));
    $("large").replaceChildren(frame(steps[i], 112));
    $("at").setAttribute("aria-valuetext", `energy ${round(energy[k])}`);
  }
  $("at").max = steps.length - 1;
  $("at").value = 0;
  $("at").oninput = event => at(Number(event.target.value));
  $("strip").replaceChildren(...steps.map((s, i) => {
    const t = frame(s, 40);
    t.onclick = () => { $("at").value = i; at(i); };
    return t;
  }));
  at(0);
}
function touchable(selector, act) {
  document.querySelectorAll(selector).forEach(item => {
    item.addEventListener("click", () => act(item));
    item.addEventListener("keydown", event => {
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); act(item); }
    });
  });
}
touchable(".leaf", leaf => show(Number(leaf.dataset.basin)));
touchable(".join", join => { [before, here] = join.dataset.pair.split(" ").map(Number); draw(); });
"""

_PANELS = """
<p id="hint" class="lead">Touch a leaf to see its members, then another for the lowest path between the two.
A horizontal bar shows the path over it.</p>
<section id="basin" hidden><h2 id="basin-title"></h2><p id="basin-facts" class="lead"></p>
<div id="members" class="members"></div></section>
<section id="path" hidden><h2 id="path-title"></h2><p id="path-facts" class="lead"></p>
<div id="walk" class="walk"><div id="large" class="large"></div><svg id="curve" role="img"
aria-label="energy along the path"></svg></div>
<input id="at" type="range" min="0" step="1" aria-label="place on the path">
<div id="strip" class="strip"></div><p class="lead">Above: the energy along the path. Drag, or touch a picture.</p>
</section>
"""


def save_page(landscape: Landscape, path: Path, title: str) -> Path:
    """Write the page: a leaf shows its members, a pair its lowest path with the energy along it."""
    n = len(landscape.basins.members)
    page = Page("Map of an energy landscape", title, _STYLE)
    page.add(_svg(landscape), _PANELS)
    how = (
        f"{len(landscape.states)} metastable states in {n} {'basin' if n == 1 else 'basins'}, grouped by "
        f"attraction–diffusion at α = {landscape.strength:.3g} and T = {landscape.conditions.temperature:.3g}. Circles "
        "tell how many members a basin has and stand at its lowest energy; bars stand at the lowest known barrier at "
        "which two branches meet. Paths were let down by the string method on the raw energy."
    )
    page.add(f"<footer>{html.escape(how)}</footer>")
    data = json.dumps(_data(landscape), separators=(",", ":"), allow_nan=False)
    data = data.replace("<", "\\u003c")  # no text in it can end the script element
    page.add(f'<script id="data" type="application/json">{data}</script>', f"<script>{_SCRIPT}</script>")
    return page.save(path)


def _data(landscape: Landscape) -> dict[str, Any]:
    pictures = portraits(landscape.states, landscape.states)
    rows = math.ceil(len(pictures) / COLUMNS)
    padding = np.zeros((rows * COLUMNS - len(pictures), *pictures.shape[1:]), dtype=np.uint8)
    lines = np.concatenate([pictures, padding]).reshape(rows, COLUMNS, *pictures.shape[1:])
    sheet = np.concatenate([_side_by_side(line) for line in lines], axis=1)
    routes = {route.pair: route for route in landscape.routes}
    return {
        "between": BETWEEN,
        "sheet": {
            "uri": _uri(sheet),
            "columns": COLUMNS,
            "rows": rows,
            "h": pictures.shape[2],
            "w": pictures.shape[3],
        },
        "basins": [
            {"energy": float(landscape.energies[members[0]]), "members": members}
            for members in landscape.basins.members
        ],
        "routes": [
            {
                "a": pair[0],
                "b": pair[1],
                "nodes": len(routes[pair].path),
                "energy": [round(float(u), 4) for u in routes[pair].energy],
                "uri": _uri(_side_by_side(portraits(routes[pair].path, landscape.states))),
            }
            for pair in joins(len(landscape.basins.members), landscape.barriers)
        ],
    }


def _side_by_side(pictures: np.ndarray) -> np.ndarray:
    """[n c h w] as one picture [c h n·w]."""
    return np.concatenate(list(pictures), axis=2)


def _uri(picture: np.ndarray) -> str:
    return png_uri(Image.fromarray(picture[0] if len(picture) == 1 else picture.transpose(1, 2, 0)))


def _svg(landscape: Landscape) -> str:
    places = layout(landscape.tree)
    n = len(places.leaves)
    step, left, top, height, thumb = (44 if n <= 16 else 34), 76, 24, 260, 30
    width, tall = left + step * n + 16, top + height + 26 + thumb + 10
    roof = ceiling(landscape)
    low = float(landscape.energies.min())

    def x(place: float) -> float:
        return round(left + step * (place + 0.5), 1)

    def y(energy: float) -> float:
        return round(top + (roof - min(energy, roof)) / (roof - low) * height, 1)

    parts = [f'<svg width="{width}" height="{tall}" role="group" aria-label="tree of basins">']
    finite = [bar.height for bar in places.bars if math.isfinite(bar.height)]
    for energy in {low, max([low, *finite])}:
        parts.append(f'<text x="6" y="{y(energy) + 4}">{energy:,.6g}</text>')
    parts.append('<text x="6" y="12">energy U</text>')
    for stem in places.stems:
        kind = "stem" if math.isfinite(stem.high) else "unknown"
        parts.append(f'<path class="{kind}" d="M{x(stem.place)} {y(stem.low)}V{y(stem.high)}"/>')
    for bar in places.bars:
        line = f'd="M{x(bar.left)} {y(bar.height)}H{x(bar.right)}"'
        if not math.isfinite(bar.height):
            parts.append(f'<path class="unknown" {line}/>')
            parts.append(f'<text x="{x(bar.left) + 4}" y="{y(bar.height) - 5}">no path found</text>')
            continue
        one, two = bar.pair
        label = f"path from basin {one + 1} to basin {two + 1}, barrier {bar.height:.6g}"
        parts.append(
            f'<g class="join" data-pair="{one} {two}" tabindex="0" role="button" aria-label="{label}">'
            f'<path class="bar" {line}/><path class="touch" {line}/></g>'
        )
    most = max(map(len, landscape.basins.members))
    pictures = portraits(landscape.states[landscape.basins.representatives], landscape.states)
    for place, basin in enumerate(places.leaves):
        members = landscape.basins.members[basin]
        at, foot = x(place), y(float(landscape.energies[members[0]]))
        radius = 8 + 7 * math.sqrt(len(members) / most)
        label = f"basin {basin + 1}, {len(members)} members"
        h, w = pictures.shape[2:]
        tile = thumb / max(h, w)
        picture = _uri(pictures[basin])
        parts.append(
            f'<g class="leaf" data-basin="{basin}" tabindex="0" role="button" aria-label="{label}">'
            f'<rect class="touch" x="{at - step / 2}" y="{foot - 20}" width="{step}" height="{tall - foot + 16}"/>'
            f'<circle cx="{at}" cy="{foot}" r="{radius:.1f}"/><text x="{at}" y="{foot + 3.5}">{len(members)}</text>'
            f'<image href="{picture}" x="{at - w * tile / 2:.1f}" y="{top + height + 26}" width="{w * tile:.1f}" '
            f'height="{h * tile:.1f}" style="image-rendering:pixelated"/></g>'
        )
    return f'<div class="map">{"".join(parts)}</svg></div>'
