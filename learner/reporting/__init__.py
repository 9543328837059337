"""Reporting: records, notifications, console, metrics, gallery, verdict."""
