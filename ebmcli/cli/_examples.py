"""Two or three commands that end each command's help. They work as they stand, and a test runs them in this order.

Later ones use what earlier ones wrote, as a person would who tries them one after the other in an empty folder.
"""

from __future__ import annotations

EXAMPLES: dict[str, tuple[str, ...]] = {
    "train": (
        "ebm train gmm_convergent --set train.updates=60",
        "ebm train --resume runs/gmm_convergent --set train.updates=100",
        "ebm train digits_quickstart --dry-run",
    ),
    "sample": (
        "ebm sample --from noise --steps 100",
        "ebm sample digits-convergent --count 16 --steps 200 --out digits.png",
        "ebm sample runs/gmm_convergent --format npz --out points.npz",
    ),
    "longrun": (
        "ebm longrun gmm-convergent --steps 500 --out gmm-longrun",
        "ebm longrun --resume gmm-longrun",
        "ebm longrun gmm-shortrun --steps 300 --kernel mala --out judged",
    ),
    "chain-video": (
        "ebm chain-video digits-convergent --steps 200 --seconds 2 --out digits.mp4",
        "ebm chain-video gmm-shortrun gmm-convergent --steps 200 --seconds 2 --out toys.gif",
    ),
    "compare": (
        "ebm compare gmm-shortrun gmm-convergent --steps 200 --html toys.html",
        "ebm compare gmm-convergent --steps 200 --kernel mala --json",
    ),
    "map": (
        "ebm map gmm-convergent --samples 24 --out gmm-map",
        "ebm map gmm --samples 24 --out true-map",
    ),
    "diagnose": (
        "ebm diagnose runs/gmm_convergent",
        "ebm diagnose gmm-shortrun --out shortrun.png",
    ),
    "sweep": (
        "ebm sweep gmm_shortrun --over mcmc.step_size=0.01,0.02 --set train.updates=10 --dry-run",
        "ebm sweep gmm_shortrun --over mcmc.step_size=0.01,0.02 --set train.updates=10",
    ),
    "interpolate": (
        "ebm interpolate --pairs 2 --frames 12 --steps 20 --out walk.png",
        "ebm interpolate mnist-shortrun --pairs 1 --frames 12 --steps 20 --seed 3 --out other.png",
    ),
    "reconstruct": (
        "ebm reconstruct --count 4 --iterations 5 --steps 20 --out found.png",
        "ebm reconstruct --from digits.png --count 1 --iterations 5 --steps 20 --out digit.png",
    ),
    "data": ("ebm data list", "ebm data show emoji-1k"),
    "data list": ("ebm data list", "ebm data list --json"),
    "data fetch": ("ebm data fetch mnist-10k", "ebm data fetch emoji-1k --image-size 16"),
    "data show": ("ebm data show mnist-10k", "ebm data show fashion-1k --noise 0.03 --out clothes.png"),
    "data clear": ("ebm data clear --dry-run", "ebm data clear"),
    "runs": ("ebm runs", "ebm runs --curves curves.png"),
    "inspect": (
        "ebm inspect mnist-shortrun",
        "ebm inspect digits.png",
        "ebm inspect --verify runs/gmm_convergent",
    ),
    "models": ("ebm models", "ebm models --json"),
    "export": ("ebm export runs/gmm_convergent my-gmm", "ebm export gmm-convergent judged-gmm --name gmm"),
    "convert": (
        "ebm convert gmm-convergent --to pth --out gmm.pth",
        "ebm convert gmm.pth --recipe gmm_convergent --out converted",
    ),
    "push": ("ebm push my-gmm you/gmm --dry-run", "ebm push my-gmm you/gmm"),
    "pull": ("ebm pull you/gmm", "ebm pull you/gmm@main --out pulled"),
    "recipe": ("ebm recipe list", "ebm recipe copy digits_quickstart mine.toml", "ebm train mine.toml --dry-run"),
    "recipe list": ("ebm recipe list", "ebm recipe list --json"),
    "recipe show": ("ebm recipe show gmm_convergent", "ebm recipe show runs/gmm_convergent"),
    "recipe copy": ("ebm recipe copy gmm_shortrun", "ebm recipe copy mnist_shortrun another.toml"),
    "recipe check": ("ebm recipe check mine.toml", "ebm recipe check gmm_convergent"),
    "recipe diff": (
        "ebm recipe diff mnist_shortrun mnist_shortrun_release",
        "ebm recipe diff mine.toml digits_quickstart",
    ),
    "recipe schema": ("ebm recipe schema",),
    "bench": ("ebm bench gmm-convergent --rounds 2", "ebm bench digits_quickstart --rounds 2 --chains 16"),
    "env": ("ebm env", "ebm env --json"),
}
"""By the words after `ebm`; a command with commands under it has examples of its own."""


def epilogue(path: str) -> str:
    r"""The end of a command's help; `\b` keeps the help's lines as they are."""
    lines = EXAMPLES.get(path, ())
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)]) if lines else ""
