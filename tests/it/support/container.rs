//! A server in a container, where a Docker engine answers.

use super::guard::AtDeath;
use std::process::{Command, Output};
use testcontainers::runners::AsyncRunner;
use testcontainers::{ContainerRequest, GenericImage};

pub(crate) struct Container {
    id: String,
    _guard: AtDeath,
}

impl Container {
    pub(crate) async fn start(request: ContainerRequest<GenericImage>) -> Result<Container, String> {
        let mut guard = AtDeath::new();
        let container = request.start().await.map_err(|error| format!("the container: {error}"))?;
        let id = container.id().to_string();
        guard.set(&format!("docker rm --force --volumes {id}"));
        // Its destructor needs the runtime of the test that came first; the guard needs nothing.
        std::mem::forget(container);
        Ok(Container { id, _guard: guard })
    }

    pub(crate) fn launch(&self) {
        self.docker(&["start"]);
    }

    pub(crate) fn signal(&self, name: &str) {
        self.docker(&["kill", "--signal", name]);
    }

    pub(crate) fn running(&self) -> bool {
        let output = self.docker(&["inspect", "--format", "{{.State.Running}}"]);
        String::from_utf8_lossy(&output.stdout).trim() == "true"
    }

    pub(crate) fn log(&self) -> String {
        let output = self.docker(&["logs", "--tail", "40"]);
        let [out, err] = [&output.stdout, &output.stderr].map(|it| String::from_utf8_lossy(it));
        format!("{out}{err}")
    }

    fn docker(&self, arguments: &[&str]) -> Output {
        let output = Command::new("docker").args(arguments).arg(&self.id).output().expect("docker runs");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "docker {arguments:?} {}: {error}", self.id);
        output
    }
}
