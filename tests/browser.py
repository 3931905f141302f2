"""Opens and runs every notebook in a real JupyterLab, in headless Chromium, and takes screenshots: make browser

Each is run by Run All Cells, as a user would, on copies, so that nothing in the project changes; what the project's cache holds
isn't computed again. Then the sliders of notebook 05 are moved. Exit status: 0 every cell of all notebooks ran and the sliders
draw anew, 1 otherwise.
"""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
import requests
from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
START, RUN = 60, 1800  # seconds
SIZE = {"width": 1400, "height": 1000}


@contextlib.contextmanager
def jupyter_lab(folder: Path) -> Iterator[str]:
    """The address of a JupyterLab server on `folder`, with a blank for a path, for as long as the block lasts."""
    token, port = os.urandom(16).hex(), 8899
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", f"--port={port}", f"--IdentityProvider.token={token}"]
    command += [
        "--allow-root",
        f"--ServerApp.root_dir={folder}",
        "--ServerApp.port_retries=0",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        "--LabApp.news_url=None",
        "--LabApp.extension_manager=readonly",
        "--LanguageServerManager.autodetect=False",
    ]
    with (folder / "jupyter.log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log, cwd=folder) as server:
        try:
            url = f"http://127.0.0.1:{port}"
            for _ in range(START):
                time.sleep(1)
                with contextlib.suppress(requests.ConnectionError):
                    if requests.get(f"{url}/api/status", params={"token": token}, timeout=5).ok:
                        break
            yield f"{url}/{{}}?token={token}"
        finally:
            server.terminate()


def run(page: Page, path: Path, url: str, shots: Path) -> str:
    """Runs all cells of the notebook and returns what is wrong, or nothing; screenshots of its top and its end."""
    page.goto(url.format(f"lab/tree/{path.name}") + "&reset")
    page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=START * 1000)
    page.wait_for_selector("text=Python 3 (ipykernel) | Idle", timeout=START * 1000)
    before = nbformat.read(path, 4)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    cells = sum(cell.cell_type == "code" for cell in before.cells)
    done, wrong = 0, ""
    for _ in range(RUN):
        time.sleep(1)
        page.keyboard.press("Control+s")
        found = nbformat.read(path, 4)
        codes = [cell for cell in found.cells if cell.cell_type == "code"]
        done = sum(cell.get("execution_count") is not None for cell in codes)
        errors = [o.evalue for cell in codes for o in cell.outputs if o.output_type == "error"]
        if errors or done == cells:
            wrong = "; ".join(errors)
            break
    else:
        wrong = f"{done} of {cells} cells ran within {RUN} s"
    page.screenshot(path=shots / f"{path.stem}.png")
    return wrong


def slide(page: Page, shots: Path) -> str:
    """Moves the strength to its end and back; the faces must change, and change back."""
    image = page.locator(".jp-OutputArea .widget-image")
    image.scroll_into_view_if_needed()
    handle = page.locator(".widget-hslider [role=slider], .widget-hslider .noUi-handle").first
    seen = [image.get_attribute("src")]
    page.screenshot(path=shots / "slider_1.png")
    for key, name in (("End", "slider_3.png"), ("Home", "slider_0.png")):
        handle.focus()
        page.keyboard.press(key)
        page.wait_for_function(
            "old => document.querySelector('.jp-OutputArea .widget-image').src !== old", arg=seen[-1], timeout=60000
        )
        seen.append(image.get_attribute("src"))
        page.screenshot(path=shots / name)
    return "" if len(set(seen)) == 3 else "the faces don't follow the slider"


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--shots", type=Path, default=ROOT / "build" / "browser")
    options.add_argument("--chromium", default=shutil.which("chromium"), help="a Chromium; without one, Playwright's own")
    options.add_argument("notebooks", nargs="*", help="a part of their names (default: all)")
    given = options.parse_args()
    given.shots.mkdir(parents=True, exist_ok=True)
    failed = 0
    with tempfile.TemporaryDirectory() as name, sync_playwright() as browsers:
        folder = Path(name)
        os.environ["DFT_OUTPUT"] = str(folder)
        for path in sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb")):
            if not given.notebooks or any(part in path.name for part in given.notebooks):
                bare = nbformat.read(path, 4)
                for cell in bare.cells:
                    cell.metadata.pop("execution", None)
                    if cell.cell_type == "code":
                        cell.outputs, cell.execution_count = [], None
                nbformat.write(bare, folder / path.name)
        browser = browsers.chromium.launch(executable_path=given.chromium, args=["--no-sandbox"])
        with jupyter_lab(folder) as url:
            for path in sorted(folder.glob("*.ipynb")):
                page = browser.new_page(viewport=SIZE)  # type: ignore[arg-type]
                begun = time.monotonic()
                wrong = run(page, path, url, given.shots)
                if not wrong and path.name.startswith("05"):
                    wrong = slide(page, given.shots)
                print(json.dumps({"notebook": path.stem, "seconds": round(time.monotonic() - begun), "wrong": wrong}), flush=True)
                failed += bool(wrong)
                page.close()
                for session in requests.get(url.format("api/sessions"), timeout=START).json():
                    requests.delete(url.format(f"api/sessions/{session['id']}"), timeout=START)
        browser.close()
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
