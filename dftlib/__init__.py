"""Data fine-tuning: one perturbation for a whole data set that raises the accuracy of a classifier nobody may change."""
