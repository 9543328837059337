"""What several packages need and none owns: backoff, whole files, threads; imports nothing of ours."""
