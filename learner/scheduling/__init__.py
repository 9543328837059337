"""What is rolled out and when: leases, the collector of groups, held-out evaluation, the judges' health."""
