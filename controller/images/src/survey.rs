//! What codeloc finds in a repository, for the author of a config.

use std::path::Path;

use codeloc_core::ids::Commit;
use codeloc_crds::CodePointer;
use codeloc_git::Git;

use crate::checkout::{CommitFiles, OwnedWanted, read_plan};
use crate::disk::blocking;
use crate::error::BuildError;
use crate::oci::default_python;
use crate::project::python_for;
use crate::project::{self, DeclaredLocation};
use crate::settings::BuildSettings;
use crate::uv::Uv;

/// Packages that take hundreds of MiB when they are imported. A run has three processes: the run, its resource tracker and a step.
const HEAVY: [&str; 24] = [
    "apache-airflow",
    "dagster-dbt",
    "dask",
    "dbt-core",
    "geopandas",
    "jax",
    "keras",
    "langchain",
    "lightgbm",
    "mlflow",
    "openai-whisper",
    "polars",
    "prophet",
    "pyarrow",
    "pyspark",
    "ray",
    "scikit-learn",
    "scipy",
    "sentence-transformers",
    "spacy",
    "tensorflow",
    "torch",
    "transformers",
    "xgboost",
];

/// How a build would read a repository.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// The file that lists the dependencies, if any.
    pub dependencies: Option<String>,
    /// Why a build would refuse the repository, with file and line.
    pub refused: Option<String>,
    /// What the repository has and codeloc does not use.
    pub notes: Vec<String>,
    /// What codeloc has to build in isolation, as far as the files say it.
    pub isolated: Vec<String>,
    /// A package of the project whose import needs more than 512 MiB in a run.
    pub heavy: Option<String>,
    /// A version of Python that the project requires, if it excludes the one of the settings.
    pub python: Option<String>,
}

/// Reads the dependencies of a location in a fetched commit as a build would.
pub async fn survey(
    git: &Git,
    bare: &Path,
    commit: &Commit,
    subdirectory: Option<&str>,
    code: Option<&CodePointer>,
    settings: &BuildSettings,
) -> Survey {
    let python = default_python(settings).await.unwrap_or_else(|_| settings.default_python.clone());
    let folder = subdirectory.map(|folder| folder.trim_matches('/')).unwrap_or_default().to_owned();
    // Without uv, a project that names uv's own default index gets a warning too many.
    let indexes = Uv::new(settings).indexes().await.unwrap_or_default();
    let wanted = OwnedWanted { dependencies: None, code: code.cloned(), python: None, built: vec![], indexes };
    match read_plan(git.clone(), bare.to_owned(), commit.clone(), folder, wanted).await {
        Err(error) => Survey { refused: Some(error.to_string()), ..Survey::default() },
        Ok(plan) => {
            let specifiers = plan.projects.iter().filter_map(|project| project.requires_python.as_deref());
            let specifiers: Vec<&str> = specifiers.collect();
            Survey {
                python: python_for(&specifiers, &python),
                isolated: plan.needs_isolation(),
                heavy: plan.names().into_iter().find(|name| HEAVY.contains(&name.as_str())),
                dependencies: plan.source,
                refused: None,
                notes: plan.notes,
            }
        }
    }
}

/// The locations that the files of a folder of a fetched commit declare.
pub async fn declared_locations(
    git: &Git,
    bare: &Path,
    commit: &Commit,
    subdirectory: Option<&str>,
) -> Result<Vec<DeclaredLocation>, BuildError> {
    let (git, bare, commit) = (git.clone(), bare.to_owned(), commit.clone());
    let folder = subdirectory.map(|folder| folder.trim_matches('/')).unwrap_or_default().to_owned();
    blocking(move || project::declared_locations(&mut CommitFiles::open(&git, &bare, commit)?, &folder)).await
}
