"""Models: the registry (`versions`), two of them compared (`comparing`), a photo tried (`trying`),
those in memory (`loaded`), and what an endpoint sees (`endpoint`)."""
