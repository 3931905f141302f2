"""Sliders where looking beats reading: in JupyterLab a picture that is drawn anew, elsewhere one that stands still."""

import io
from collections.abc import Callable, Sequence

import ipywidgets as widgets
from matplotlib.figure import Figure

from dftlib.progress import in_jupyter


def strength_and_weight(draw: Callable[[float, float], Figure], weights: Sequence[float]) -> Figure | widgets.VBox:
    """`draw(strength, weight)` under two sliders: strength from 0 to 3, weight among `weights` and 0, the profile's own fit.

    Whoever executes the notebook without a browser (papermill, nbval) gets the figure of strength 1 and weight 0.
    """
    if not in_jupyter():
        return draw(1.0, 0.0)
    strength = widgets.FloatSlider(1.0, min=0.0, max=3.0, step=0.25, description="strength", continuous_update=False)
    named = [("own fit", 0.0), *((f"{w:g}", w) for w in weights)]
    weight = widgets.SelectionSlider(options=named, description="weight", continuous_update=False)
    picture, said = widgets.Image(layout=widgets.Layout(max_width="1050px")), widgets.Label()

    def show(_change: object = None) -> None:
        said.value = "drawing; a weight that is new to the cache is fitted first …"
        png = io.BytesIO()
        draw(strength.value, weight.value).savefig(png, dpi=150)
        picture.value, said.value = png.getvalue(), ""

    for slider in (strength, weight):
        slider.observe(show, "value")
    show()
    return widgets.VBox([widgets.HBox([strength, weight, said]), picture])
