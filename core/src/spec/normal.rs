//! When two specs ask for the same job: a PUT that is repeated must not be taken for another one.

use super::job::{JobSpec, Resources};
use super::volumes::MountVolumes;
use crate::toolkit::Toolkit;

impl JobSpec {
    /// Whether both ask for the same, secrets included, once the defaults are filled in.
    #[must_use]
    pub fn asks_the_same_as(&self, other: &JobSpec) -> bool {
        normal(self) == normal(other)
    }
}

/// The spec with every default written out, and empty objects left out.
fn normal(spec: &JobSpec) -> JobSpec {
    let mut spec = spec.clone();
    fill_in_toolkit(&mut spec.toolkit, spec.node_count);
    if let Some(volumes) = &mut spec.mount_volumes {
        for share in &mut volumes.azure_file_shares {
            share.file_mode.get_or_insert_with(|| "0777".to_owned());
            share.directory_mode.get_or_insert_with(|| "0777".to_owned());
        }
    }
    spec.mount_volumes = spec.mount_volumes.filter(|volumes| *volumes != MountVolumes::default());
    spec.resources = spec.resources.filter(|resources| *resources != Resources::default());
    for directory in &mut spec.output_directories {
        directory.path_suffix = directory.path_suffix.take().filter(|suffix| !suffix.is_empty());
    }
    spec
}

fn fill_in_toolkit(toolkit: &mut Toolkit, node_count: u32) {
    let process_count = match toolkit {
        Toolkit::TensorFlow(settings) => {
            settings.parameter_server_count.get_or_insert(u32::from(node_count > 1));
            &mut settings.worker_count
        }
        Toolkit::PyTorch(settings) => {
            if let Some(backend) = &mut settings.communication_backend {
                backend.make_ascii_lowercase();
            }
            &mut settings.process_count
        }
        Toolkit::Cntk(settings) => {
            settings.language_type = None; // It follows from the file.
            &mut settings.process_count
        }
        Toolkit::Caffe(settings) => &mut settings.process_count,
        Toolkit::Chainer(settings) => &mut settings.process_count,
        Toolkit::CustomMpi(settings) => &mut settings.process_count,
        Toolkit::Horovod(settings) => &mut settings.process_count,
        Toolkit::Caffe2(_) | Toolkit::Custom(_) => return,
    };
    process_count.get_or_insert(node_count);
}
