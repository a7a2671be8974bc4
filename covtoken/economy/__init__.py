"""Budgets, certificates and routes."""
