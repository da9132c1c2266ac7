"""Fit programs to your own data, compare them with controls, predict new rows, and scikit-learn estimators."""
