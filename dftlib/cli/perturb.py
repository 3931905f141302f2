"""Adds a saved perturbation to every picture of a folder.

    dft perturb --perturbation p.safetensors --in photos --out photos-tuned

Every picture below the folder, linked folders too, is written to the same place below the new one, its name with .png behind
it: a.jpg becomes a.jpg.png. It must have the perturbation's size, unless that is of dft tune: fitted to whole pictures resized,
it is stretched to the picture's size (bicubic), because the classifier resizes the picture anyway. If it was fitted to aligned
faces (dft tune --align), the face of each picture is found and aligned in the same way, and written in its place, at the size
of the perturbation. First the perturbation's card is shown: whether it is recommended, and for which pictures and classifier.
Where the pictures' brightness, colours or contrast are far from those it was fitted on, a warning follows. What leaves is RGB,
8 bits, PNG (JPEG would change what was added), turned as the EXIF orientation says; transparency, further frames and all
metadata, colour profiles among them, are dropped. A second call goes on where a killed one was, and redoes pictures whose
content changed.
Exit status: 0 all done, 1 some pictures can't be read or named, have another size, or show no face to align, 2 nothing
can be done.
"""

from pathlib import Path

from dftlib.cli.common import guarded, parser, told
from dftlib.perturbation.folder import perturb_folder


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status, and lets a fault out as an exception only with --debug."""
    options = parser("perturb", __doc__)
    options.add_argument("--perturbation", type=Path, required=True, help="file that Perturbation.save wrote", metavar="FILE")
    options.add_argument("--in", type=Path, required=True, help="folder of pictures, read with its sub-folders", metavar="FOLDER")
    options.add_argument("--out", type=Path, required=True, help="new, empty, or begun with this perturbation", metavar="FOLDER")
    given = vars(options.parse_args(argv))
    return guarded(lambda: told(perturb_folder(given["perturbation"], given["in"], given["out"])), given["debug"])
