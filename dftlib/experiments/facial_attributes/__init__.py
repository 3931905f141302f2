"""*Facial Attributes: Accuracy and Adversarial Robustness*: notebooks 07 to 09."""
