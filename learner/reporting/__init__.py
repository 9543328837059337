"""What a run tells: records, notifications, console, metrics, gallery, verdict."""
