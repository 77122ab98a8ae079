//! Where and how the processes of a group find each other.

use std::str::FromStr;
use std::time::Duration;

use crate::{Error, Result};

/// The port where nothing else is said, as in PyTorch.
const DEFAULT_PORT: u16 = 29500;

/// Where the processes of a group meet, and which one this is.
///
/// Launchers set environment variables that [`from_env`](Self::from_env) reads. [`new`](Self::new) is for programs that
/// know these values from elsewhere.
///
/// ```
/// use std::time::Duration;
///
/// use tch_c10d::Rendezvous;
///
/// let mut rendezvous = Rendezvous::new(1, 4, "10.0.0.1", 29500);
/// rendezvous.local_rank = 1; // the second process of its machine
/// rendezvous.timeout = Duration::from_secs(120);
/// assert!(!rendezvous.agent_store && rendezvous.restarts == 0);
/// assert_eq!((rendezvous.rank, rendezvous.world_size), (1, 4));
/// assert_eq!(format!("{}:{}", rendezvous.address, rendezvous.port), "10.0.0.1:29500");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rendezvous {
    /// The number of this process, from 0.
    pub rank: usize,
    /// How many processes there are.
    pub world_size: usize,
    /// The number of this process among those of its machine, from 0.
    pub local_rank: usize,
    /// The host of the store where the processes meet.
    pub address: String,
    /// The port of the store.
    pub port: u16,
    /// Whether the launcher runs the store, as torchrun does. If not, rank 0 runs it.
    pub agent_store: bool,
    /// How often the launcher has restarted the processes.
    pub restarts: u64,
    /// How long to wait for other processes, here and in every operation of the group: 10 minutes.
    pub timeout: Duration,
}

impl Rendezvous {
    /// Rank 0 runs the store, at the given address. All processes are on one machine.
    pub fn new(rank: usize, world_size: usize, address: impl Into<String>, port: u16) -> Self {
        Self {
            rank,
            world_size,
            local_rank: rank,
            address: address.into(),
            port,
            agent_store: false,
            restarts: 0,
            timeout: Duration::from_secs(600),
        }
    }

    /// What the launcher says; `None` if there is none, and the program runs alone.
    ///
    /// | launcher | ranks | address and port of the store |
    /// |---|---|---|
    /// | torchrun, and by hand | `RANK`, `WORLD_SIZE`, `LOCAL_RANK` | `MASTER_ADDR`, `MASTER_PORT` |
    /// | SLURM (`srun`) | `SLURM_PROCID`, `SLURM_NTASKS`, `SLURM_LOCALID` | the first node of the job; 20000 and the last four digits of the job's number |
    /// | Open MPI (`mpirun`) | `OMPI_COMM_WORLD_RANK`, `OMPI_COMM_WORLD_SIZE`, `OMPI_COMM_WORLD_LOCAL_RANK` | on one machine `127.0.0.1`; 29500 |
    ///
    /// The first launcher in this table whose rank is set counts. `MASTER_ADDR` and `MASTER_PORT` count with each. By
    /// hand, a `LOCAL_RANK` that is not set is the rank. torchrun also says that its agent runs the store
    /// (`TORCHELASTIC_USE_AGENT_STORE`), and how often it has restarted the processes (`TORCHELASTIC_RESTART_COUNT`).
    ///
    /// # Errors
    /// If a variable that is needed is not set or invalid.
    pub fn from_env() -> Result<Option<Self>> {
        Self::from_variables(&|name| std::env::var(name).ok())
    }

    fn from_variables(get: &dyn Fn(&str) -> Option<String>) -> Result<Option<Self>> {
        let mut rendezvous = if get("RANK").is_some() {
            let (rank, world_size) = (need(get, "RANK")?, need(get, "WORLD_SIZE")?);
            let mut rendezvous =
                Self::new(rank, world_size, need::<String>(get, "MASTER_ADDR")?, need(get, "MASTER_PORT")?);
            rendezvous.local_rank = parse(get, "LOCAL_RANK")?.unwrap_or(rank);
            rendezvous.agent_store = get("TORCHELASTIC_USE_AGENT_STORE").is_some_and(|value| value == "True");
            rendezvous.restarts = parse(get, "TORCHELASTIC_RESTART_COUNT")?.unwrap_or(0);
            rendezvous
        } else if get("SLURM_PROCID").is_some() {
            let (address, port) = match get("MASTER_ADDR") {
                Some(address) => (address, DEFAULT_PORT),
                None => {
                    let nodes: String = need(get, "SLURM_JOB_NODELIST")?;
                    (first_node(&nodes), (20_000 + need::<u64>(get, "SLURM_JOB_ID")? % 10_000) as u16)
                }
            };
            let mut rendezvous = Self::new(need(get, "SLURM_PROCID")?, need(get, "SLURM_NTASKS")?, address, port);
            rendezvous.local_rank = need(get, "SLURM_LOCALID")?;
            rendezvous
        } else if get("OMPI_COMM_WORLD_RANK").is_some() {
            let (rank, world_size) = (need(get, "OMPI_COMM_WORLD_RANK")?, need(get, "OMPI_COMM_WORLD_SIZE")?);
            let on_one_machine = parse(get, "OMPI_COMM_WORLD_LOCAL_SIZE")? == Some(world_size);
            let address: Option<String> =
                if on_one_machine { parse(get, "MASTER_ADDR")? } else { Some(need(get, "MASTER_ADDR")?) };
            let mut rendezvous =
                Self::new(rank, world_size, address.unwrap_or_else(|| "127.0.0.1".into()), DEFAULT_PORT);
            rendezvous.local_rank = need(get, "OMPI_COMM_WORLD_LOCAL_RANK")?;
            rendezvous
        } else {
            return Ok(None);
        };
        if let Some(port) = parse(get, "MASTER_PORT")? {
            rendezvous.port = port;
        }
        Ok(Some(rendezvous))
    }
}

/// A variable that may be left out.
fn parse<T: FromStr>(get: &dyn Fn(&str) -> Option<String>, variable: &'static str) -> Result<Option<T>> {
    let Some(value) = get(variable) else { return Ok(None) };
    let error = || {
        let kind = if std::any::type_name::<T>() == "u16" { "a port" } else { "a number from 0" };
        Error::Environment { variable, message: format!("expected {kind}, got {value:?}") }
    };
    value.parse().map(Some).map_err(|_| error())
}

/// A variable that its launcher sets.
fn need<T: FromStr>(get: &dyn Fn(&str) -> Option<String>, variable: &'static str) -> Result<T> {
    let message = || "not set; a launcher such as torchrun sets it, or set it by hand".into();
    parse(get, variable)?.ok_or_else(|| Error::Environment { variable, message: message() })
}

/// The first name of a list in SLURM's notation: `gpu[03-05,9],login` begins with `gpu03`.
fn first_node(nodes: &str) -> String {
    let end = nodes.find([',', '[']).unwrap_or(nodes.len());
    let numbers = nodes[end..].strip_prefix('[').unwrap_or("");
    let number = numbers.split([',', '-', ']']).next().unwrap_or("");
    format!("{}{number}", &nodes[..end])
}

#[cfg(test)]
mod tests {
    use super::{Rendezvous, first_node};

    fn read(variables: &[(&str, &str)]) -> Result<Option<Rendezvous>, String> {
        let get = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).into());
        Rendezvous::from_variables(&get).map_err(|error| error.to_string())
    }

    const BY_HAND: [(&str, &str); 4] =
        [("RANK", "2"), ("WORLD_SIZE", "4"), ("MASTER_ADDR", "10.0.0.1"), ("MASTER_PORT", "1234")];

    #[test]
    fn a_program_without_a_launcher_runs_alone() {
        assert_eq!(read(&[]), Ok(None));
        assert_eq!(read(&[("WORLD_SIZE", "2"), ("MASTER_PORT", "1")]), Ok(None));
    }

    #[test]
    fn ranks_are_given_by_hand() {
        let expected = Rendezvous::new(2, 4, "10.0.0.1", 1234);
        assert_eq!(expected.local_rank, 2);
        assert_eq!(read(&BY_HAND), Ok(Some(expected)));
    }

    #[test]
    fn torchrun_has_a_store_of_its_own_and_counts_restarts() {
        let torchrun =
            [("LOCAL_RANK", "0"), ("TORCHELASTIC_USE_AGENT_STORE", "True"), ("TORCHELASTIC_RESTART_COUNT", "3")];
        let mut expected = Rendezvous::new(2, 4, "10.0.0.1", 1234);
        (expected.local_rank, expected.agent_store, expected.restarts) = (0, true, 3);
        // Also inside a job of SLURM.
        let all = [&BY_HAND[..], &torchrun, &[("SLURM_PROCID", "7")]].concat();
        assert_eq!(read(&all), Ok(Some(expected)));
    }

    #[test]
    fn slurm_names_the_first_node() {
        let slurm = [
            ("SLURM_PROCID", "5"),
            ("SLURM_NTASKS", "8"),
            ("SLURM_LOCALID", "1"),
            ("SLURM_JOB_NODELIST", "gpu[03-05],login"),
            ("SLURM_JOB_ID", "1234567"),
        ];
        let mut expected = Rendezvous::new(5, 8, "gpu03", 24567);
        expected.local_rank = 1;
        assert_eq!(read(&slurm), Ok(Some(expected.clone())));
        (expected.address, expected.port) = ("head".into(), 99);
        assert_eq!(read(&[&slurm[..], &[("MASTER_ADDR", "head"), ("MASTER_PORT", "99")]].concat()), Ok(Some(expected)));
        for (nodes, first) in [("a", "a"), ("a-1,b", "a-1"), ("n[1,3]", "n1"), ("n[007-9]", "n007"), ("n[2]", "n2")] {
            assert_eq!(first_node(nodes), first);
        }
    }

    #[test]
    fn open_mpi_needs_an_address_on_several_machines() {
        let mpi = [("OMPI_COMM_WORLD_RANK", "1"), ("OMPI_COMM_WORLD_SIZE", "2"), ("OMPI_COMM_WORLD_LOCAL_RANK", "0")];
        let on_one = [&mpi[..], &[("OMPI_COMM_WORLD_LOCAL_SIZE", "2")]].concat();
        let mut expected = Rendezvous::new(1, 2, "127.0.0.1", 29500);
        expected.local_rank = 0;
        assert_eq!(read(&on_one), Ok(Some(expected)));
        assert!(read(&mpi).unwrap_err().starts_with("MASTER_ADDR: not set;"));
        let on_two = [&mpi[..], &[("OMPI_COMM_WORLD_LOCAL_SIZE", "1"), ("MASTER_ADDR", "head")]].concat();
        assert_eq!(read(&on_two).unwrap().unwrap().address, "head");
    }

    #[test]
    fn errors_name_the_variable() {
        assert!(read(&BY_HAND[..1]).unwrap_err().starts_with("WORLD_SIZE: not set;"));
        for (place, value, message) in [
            (0, "-1", "RANK: expected a number from 0, got \"-1\""),
            (1, "two", "WORLD_SIZE: expected a number from 0, got \"two\""),
            (3, "70000", "MASTER_PORT: expected a port, got \"70000\""),
        ] {
            let mut variables = BY_HAND;
            variables[place].1 = value;
            assert_eq!(read(&variables).unwrap_err(), message);
        }
    }
}
