"""The numbers of REPRODUCIBILITY.md are those of the results, and what it says of the equations is so."""

import numpy as np
import pandas as pd
import pytest
import torch
from committed import stored
from test_readme import by_place, each_across

from dftlib.experiments.tables import home_and_away
from dftlib.metrics.similarity import psnr
from dftlib.paths import ROOT
from dftlib.perturbation.box_maps import BOXES

TEXT = (ROOT / "REPRODUCIBILITY.md").read_text()


def cells(name: str, profile: str = "small") -> pd.Series:
    """Means over seeds, then over the paper's cells of a table, by the main protocol."""
    rows = stored(name, profile).query("protocol == 'subject' and attribute != 'Eyeglasses'")
    means = rows.groupby(["data", "model", "attribute"])[["before", "after", "rise"]].mean()
    return means.mean()


def flips() -> list[float]:
    table = stored("flippability").query("mode == 'line-search'").set_index(["loss", "adversarial_type"])["pass_95"]
    names = ("FGS+", "FFA+", "MFFA+", "FGS-", "FFA-")
    return [float(table["Euclidean", name]) for name in names]


def expected() -> list[str]:
    own, across = cells("table2_gender_intra"), cells("table5_gender_inter")
    real = cells("table5_gender_inter", "identity")
    error = stored("attribute_error").groupby("approach")["error"].mean()
    separate, moon, majority = (error[name] for name in ("Separate networks (Euclidean)", "MOON", "Trivial (majority class)"))
    fgs, ffa, mffa, fgs_set, ffa_set = flips()
    findings = stored("scorecard_findings")
    held = findings[findings["case"] == "mean share of other answers changed"].set_index("finding")
    moved, port = held.loc["MOON's attributes move together more"], held.loc["two epochs' images port better"]
    longer = findings[findings["finding"] == "longer training leaves nine tenths or more"]
    assert longer["holds"].tolist() == longer["case"].str.contains("+", regex=False).tolist()
    scans = stored("digits", "demo").set_index("scanner")
    alike, shift = scans.loc[["contrast", "uneven light", "smudge", "blur"]].mean(numeric_only=True), scans.loc["shift"]
    home = cells("table2_gender_intra", "identity")
    shares = stored("scorecard", "identity").query("table == 4")[["before", "after"]].to_numpy()
    rises = shares[:, 1] - shares[:, 0]  # of 'present' and 'absent' of three attributes
    up, (down,) = rises[rises > 0], rises[rises < 0]
    lost, lost_weak = (home_and_away(stored("crops", profile)) for profile in ("identity", "small"))
    usual, aligned = lost.loc["the usual crops"], lost.loc["by landmarks"]
    cut = stored("misplaced", "identity").query("data == 'celeba' and cut == 'usual crop'").iloc[0]
    tuned = stored("label_budget", "identity").query("all").groupby("method")[["before", "after"]].mean()
    weakly = stored("label_budget").query("all").groupby("method")[["before", "after"]].mean()
    turns = stored("combination", "identity").query("round == 4").groupby("way")["after"].mean()
    seen = each_across()["ssim"].where(lambda s: s < 1)
    faint = [
        float(stored("frontier", profile).query(f"data == 'muct' and rule == '{rule}' and value == {value}")["rise"].item())
        for profile, limit in (("identity", 30), ("small", 28.5)) for rule, value in (("mean", 1000), ("limit", limit))
    ]  # fmt: skip
    washed = stored("box_maps_at_zero").query("box == 'printed'")["psnr"].mean()
    return [
        f"the same on features of an age network: {own['before']:.1f} → {own['after']:.1f} |",
        f"face identity network: {home['before']:.1f} → {home['after']:.1f} |",
        f"own set, face identity network, mean rise: {cells('table3_attributes_intra', 'identity')['rise']:.1f} |",
        f"CelebA by LFW, usual crop: {cut['before']:.1f}, with N {cut['after']:.1f}, aligned {cut['aligned']:.1f} |",
        "face identity network: {:.1f} → {:.1f} by N, {:.1f} by its head fine-tuned, {:.1f} all layers |".format(
            tuned["before"]["data"], *tuned["after"][["data", "head", "all layers"]]
        ),
        "features of an age network: {:.1f} → {:.1f} by N, {:.1f} by its head, {:.1f} all layers |".format(
            weakly["before"]["data"], *weakly["after"][["data", "head", "all layers"]]
        ),
        f"both in turn {turns['both']:.1f}, N alone {turns['data']:.1f} |",
        f"{len(rises)} shares of Table 4: {len(up)} rise, by {up.min():.1f} to {up.max():.1f} points, the other by {down:.1f} |",
        f"features of an age network: {across['before']:.1f} → {across['after']:.1f} |",
        f"mean of six, face identity network: {real['before']:.1f} → {real['after']:.1f} |",
        f"face identity network, mean rise: {cells('table6_attributes_inter', 'identity')['rise']:.1f} |",
        f"usual crops: own sets {usual['own set']:.1f}, other sets {usual['other sets']:.1f}; by landmarks "
        f"{aligned['own set']:.1f}, {aligned['other sets']:.1f} |",
        f"crops explain {by_place(lost):.0f} % of the collapse, on weak features {by_place(lost_weak):.0f} % |",
        f"longer training leaves fewer flips in {int((~longer['holds']).sum())} of {len(longer)}, those of wrong answers",
        f"other attributes, own set, features of an age network, mean rise: {cells('table3_attributes_intra')['rise']:.1f} |",
        f"on features of an age network, mean rise: {cells('table6_attributes_inter')['rise']:.1f} |",
        f"separate networks {separate:.1f}, MOON {moon:.1f}, majority class {majority:.1f} |",
        f"line-search FGS {fgs:.1f}, FFA {ffa:.1f}, MOON {mffa:.1f} |",
        f"set right by FGS {fgs_set:.1f}, FFA {ffa_set:.1f} |",
        f"two epochs {port['first']:.2f}, converged {port['second']:.2f} |",
        f"MOON {moved['first']:.2f}, separate networks {moved['second']:.2f} |",
        f"of {len(findings)} comparisons with the paper's own, {int(findings['holds'].sum())} hold |",
        f"leaves {washed:.1f} dB of a picture",
        f"at 30 dB an SSIM of {seen.min():.2f} to {seen.max():.2f}",
        "at 42 dB wins {:.1f} points where ours wins {:.1f}, on features of an age network {:.1f} where ours wins {:.1f}".format(
            *faint
        ),
        f"{alike['before']:.1f} → {alike['after']:.1f} with N, {alike['offsets']:.1f} with an offset a class",
        f"one pixel: {shift['after']:.1f} with N, {shift['aligned_matched']:.1f} moved back",
    ]


@pytest.mark.parametrize("text", expected())
def test_each_number_is_that_of_the_results(text: str) -> None:
    assert text in " ".join(TEXT.split())


def test_every_claim_has_a_row_or_a_reason() -> None:
    table, rest = TEXT.split("| claim | notebook |")[1].split("\n\n", 1)
    rows = {line.split("|")[1].strip() for line in table.splitlines()[2:]}
    assert rows == {"1", "2", "3", "4", "5", "7", "8", "9", "10", "11", "8–11"}
    assert rest.startswith("Claim 6 does not hold as printed")


def test_equation_5_as_printed_washes_out_a_picture_and_the_map_used_does_not() -> None:
    images = torch.from_numpy(np.random.default_rng(0).random((4, 3, 16, 16), np.float32))
    zero = torch.zeros(3, 16, 16)
    assert psnr(images, BOXES["printed"](images, zero)).max() < 15
    assert psnr(images, BOXES["atanh"](images, zero)).min() > 100
