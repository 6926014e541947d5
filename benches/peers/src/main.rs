//! Runs portcullis and its peers in turn, in one process, and prints a comparison.

mod arguments;
mod harness;
mod ours;
mod peers;
mod suite;
mod workload;

use std::process::ExitCode;

use arguments::Arguments;
use harness::Case;
use suite::Suite;

fn main() -> ExitCode {
    let arguments = match Arguments::parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(problem) => return refuse(&problem),
    };
    // For rows that spawn tasks. The rows themselves run on this thread.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_time()
        .build()
        .expect("a runtime of one thread can be built");
    let _entered = runtime.enter();
    run(&arguments)
}

fn run(arguments: &Arguments) -> ExitCode {
    let cases = arguments.keep(arguments.suite.cases());
    if cases.is_empty() {
        return refuse("no case matches the filters");
    }
    if arguments.is_list {
        let row = |case: &Case| println!("{} {}", case.name, case.who.name());
        cases.iter().for_each(row);
        return ExitCode::SUCCESS;
    }
    harness::print(&harness::measure(cases, arguments.effort));
    ExitCode::SUCCESS
}

fn refuse(problem: &str) -> ExitCode {
    eprintln!(
        "{problem}\nusage: peers {} [--quick] [--list] [part of a case's name]...",
        Suite::names()
    );
    ExitCode::from(2)
}
