//! AWS: who we are (IMDS), with what right (credentials), and what EC2 says.

pub mod credentials;
pub mod ec2;
pub mod imds;
mod sigv4;
mod xml;
