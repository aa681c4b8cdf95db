"""The container lane: an engine of its own, stand-ins for images that are not pulled, and the tests that use them."""
