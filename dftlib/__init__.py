"""Data fine-tuning: one perturbation for a whole data set that raises the accuracy of a classifier nobody may change."""

import warnings

# Progress bars are plain text here; tqdm would otherwise warn, with a path of the machine, in every notebook.
warnings.filterwarnings("ignore", message="IProgress not found")
