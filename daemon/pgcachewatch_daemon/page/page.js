// What the page at / shows.
