//! TLS to PostgreSQL, as libpq does it: the modes, whom is trusted, what is shown, and what a login is bound to.

mod files;
mod lab;
mod middleman;
mod modes;
mod password;
mod relay;
mod secrets;
mod trust;
