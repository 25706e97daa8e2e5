"""Result rows at the door: checked, chosen and laid out as what an estimator reads."""
