"""Maps of energy landscapes after §4.4: basins, the hills between them, paths.

Everything works on a `Potential`, which any nn.Module with one scalar an image makes, or on any target::

    potential = Potential(network, shape=(1, 32, 32), energy_scale=2 / 0.015**2)
    for progress in chart(potential, starts, MapSettings(step_size=0.015)):
        print(progress.stage, progress.done, progress.total)
    landscape = progress.result
"""

from ebmcli.landscape.basins import Basins
from ebmcli.landscape.mapping import Landscape, MapSettings, Progress, Route, chart
from ebmcli.landscape.travel import Arrival, Conditions, Job, Travel
from ebmcli.landscape.tree import Node, merge_heights, tree
from ebmcli.landscape.truth import ToyEnergy
from ebmcli.landscape.ways import Between, Relaxed, between, relax

__all__ = [
    "Arrival",
    "Basins",
    "Between",
    "Conditions",
    "Job",
    "Landscape",
    "MapSettings",
    "Node",
    "Progress",
    "Relaxed",
    "Route",
    "ToyEnergy",
    "Travel",
    "between",
    "chart",
    "merge_heights",
    "relax",
    "tree",
]
