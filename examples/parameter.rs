//! Reads one parameter as the supervisor does, and shows no more of its value than a digest: `parameter /name`.
//! The end-to-end tests read real answers with it.

use std::process::ExitCode;

use aws_lc_rs::digest;
use etcd_muster::aws::ssm::Error;
use etcd_muster::config;
use etcd_muster::discovery;
use etcd_muster::discovery::aws_clients::Aws;
use etcd_muster::util::exit::{self, Code, Failure};
use etcd_muster::util::logger;

fn main() -> ExitCode {
    ExitCode::from(u8::try_from(exit::conclude(read())).unwrap_or(u8::MAX))
}

fn read() -> Result<i32, Failure> {
    let name = std::env::args().nth(1).ok_or_else(|| Failure::new(Code::Usage, "parameter NAME"))?;
    let wrong = |problems: Vec<config::Problem>| {
        let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
        Failure::new(Code::Config, lines.join("\n"))
    };
    let config = config::read(&config::environment(&[])).map_err(wrong)?;
    logger::start(config.log.level, config.log.format);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| Failure::new(Code::System, e))?;
    let value = runtime.block_on(async {
        let imds = discovery::metadata_service(&config.aws);
        let own = discovery::fetch_identity(&config, &imds).await.map_err(Failure::from)?;
        let ssm = Aws::new(&config.aws, imds, Some(&own))?.ssm();
        let failed =
            |error: Error| Failure::new(if error.is_denial() { Code::Denied } else { Code::Unavailable }, error);
        ssm.parameter(&name).await.map_err(failed)
    })?;
    let digest = digest::digest(&digest::SHA256, value.expose().as_bytes());
    let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    println!("{value:?} {hex}");
    Ok(0)
}
