"""Puts into the wheel, beside the packages, what a checkout has elsewhere (`dftlib.paths`); all else is in pyproject.toml."""

from setuptools import find_packages, setup

ELSEWHERE = {"dftlib.notebooks": "notebooks", "dftlib.profiles": "notebooks/profiles", "dftlib.published": "results/published"}

setup(
    packages=[*find_packages(include=["dftlib", "dftlib.*"]), *ELSEWHERE],
    package_dir=ELSEWHERE,
    package_data={
        "dftlib": ["py.typed"],
        "dftlib.notebooks": ["10_your_own_classifier.ipynb"],
        "dftlib.profiles": ["*.yaml"],
        "dftlib.published": ["*.csv"],
    },
    include_package_data=False,
)
