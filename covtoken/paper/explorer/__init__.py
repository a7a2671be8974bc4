"""Show real pictures beside what scores keep of them, in a page that needs no network."""
