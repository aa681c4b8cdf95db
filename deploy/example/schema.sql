-- What the example of compose.yaml works on, and its two roles: each may do what it needs and no more.
\getenv password POSTGRES_PASSWORD

CREATE ROLE pgcachewatch_relay LOGIN PASSWORD :'password' CONNECTION LIMIT 5;

CREATE TABLE products (id int PRIMARY KEY, name text NOT NULL, price numeric(10, 2) NOT NULL);
INSERT INTO products VALUES (1, 'kettle', 29.00), (2, 'teapot', 39.00), (3, 'cup', 9.00);

CREATE ROLE shop LOGIN PASSWORD :'password';
GRANT SELECT, UPDATE ON products TO shop;
