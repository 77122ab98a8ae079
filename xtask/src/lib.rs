//! Checks of the repository itself: what drifts apart unless a test holds it together.
