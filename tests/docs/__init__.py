"""Every command block of the README and docs/, run; what is not run says why."""
