//! The toolkits: a variant, a file and a match arm per kind.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::plan::role::Seating;
use crate::plan::{Gang, PlanError};

pub mod caffe;
pub mod caffe2;
pub mod chainer;
pub mod cntk;
pub mod custom;
pub mod horovod;
pub mod mpi;
pub mod pytorch;
pub mod tensorflow;

/// The settings of one toolkit. On the wire the variant is the key, as `tensorFlowSettings`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub enum Toolkit {
    /// Microsoft Cognitive Toolkit.
    #[serde(rename = "cntkSettings")]
    Cntk(cntk::Settings),
    /// PyTorch.
    #[serde(rename = "pyTorchSettings")]
    PyTorch(pytorch::Settings),
    /// TensorFlow with parameter servers and workers.
    #[serde(rename = "tensorFlowSettings")]
    TensorFlow(tensorflow::Settings),
    /// Caffe.
    #[serde(rename = "caffeSettings")]
    Caffe(caffe::Settings),
    /// Caffe2.
    #[serde(rename = "caffe2Settings")]
    Caffe2(caffe2::Settings),
    /// Chainer.
    #[serde(rename = "chainerSettings")]
    Chainer(chainer::Settings),
    /// Any command, on the first node.
    #[serde(rename = "customToolkitSettings")]
    Custom(custom::Settings),
    /// Any command under MPI.
    #[serde(rename = "customMpiSettings")]
    CustomMpi(mpi::Settings),
    /// Horovod.
    #[serde(rename = "horovodSettings")]
    Horovod(horovod::Settings),
}

impl Toolkit {
    /// Every settings key, in the order of the swagger.
    pub const KEYS: [&'static str; 9] = [
        "cntkSettings",
        "pyTorchSettings",
        "tensorFlowSettings",
        "caffeSettings",
        "caffe2Settings",
        "chainerSettings",
        "customToolkitSettings",
        "customMpiSettings",
        "horovodSettings",
    ];

    /// The key of these settings.
    #[must_use]
    pub fn key(&self) -> &'static str {
        match self {
            Toolkit::Cntk(_) => "cntkSettings",
            Toolkit::PyTorch(_) => "pyTorchSettings",
            Toolkit::TensorFlow(_) => "tensorFlowSettings",
            Toolkit::Caffe(_) => "caffeSettings",
            Toolkit::Caffe2(_) => "caffe2Settings",
            Toolkit::Chainer(_) => "chainerSettings",
            Toolkit::Custom(_) => "customToolkitSettings",
            Toolkit::CustomMpi(_) => "customMpiSettings",
            Toolkit::Horovod(_) => "horovodSettings",
        }
    }

    /// `toolType` on the wire.
    #[must_use]
    pub fn tool_type(&self) -> &'static str {
        match self {
            Toolkit::Cntk(_) => "cntk",
            Toolkit::PyTorch(_) => "pytorch",
            Toolkit::TensorFlow(_) => "tensorflow",
            Toolkit::Caffe(_) => "caffe",
            Toolkit::Caffe2(_) => "caffe2",
            Toolkit::Chainer(_) => "chainer",
            Toolkit::Custom(_) => "custom",
            Toolkit::CustomMpi(_) => "mpi",
            Toolkit::Horovod(_) => "horovod",
        }
    }

    /// Which task sits where, and what it runs.
    pub(crate) fn seat<'a>(&'a self, gang: &mut Gang<'_>) -> Result<Seating<'a>, PlanError> {
        match self {
            Toolkit::TensorFlow(settings) => tensorflow::seat(settings, gang),
            Toolkit::PyTorch(settings) => pytorch::seat(settings, gang),
            Toolkit::Custom(settings) => Ok(custom::seat(settings, gang)),
            Toolkit::Cntk(_)
            | Toolkit::Caffe(_)
            | Toolkit::Caffe2(_)
            | Toolkit::Chainer(_)
            | Toolkit::CustomMpi(_)
            | Toolkit::Horovod(_) => Err(PlanError::NotBuilt { features: vec![self.key().to_owned()] }),
        }
    }
}
