"""Pictures and volumes drawn beside the frozen phantom, with lesions of known size."""
