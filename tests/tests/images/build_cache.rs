//! The build cache in S3, with the real SDK.

use codeloc_aws::build_cache::S3BuildCache;
use codeloc_images::BuildCache;
use codeloc_tests::TestDeployment;
use localcloud::fault_injection::{Fault, Rule};

const NAME: &str = "locks/0123.txt";

fn build_cache(deployment: &TestDeployment) -> S3BuildCache {
    S3BuildCache::new(deployment.clients().s3, &deployment.settings.aws.bucket, "codeloc")
}

#[tokio::test(start_paused = true)]
async fn the_first_lock_of_equal_requirements_stays() {
    let deployment = TestDeployment::new().await;
    let (one, other) = (build_cache(&deployment), build_cache(&deployment));
    assert_eq!(one.read(NAME).await.expect("an answer"), None);
    assert_eq!(one.write_first(NAME, "tiny==1.0".to_owned()).await.expect("an answer"), "tiny==1.0");
    assert_eq!(other.write_first(NAME, "tiny==2.0".to_owned()).await.expect("an answer"), "tiny==1.0");
    assert_eq!(other.read(NAME).await.expect("an answer").as_deref(), Some("tiny==1.0"));
    other.write(NAME, "tiny==3.0".to_owned()).await.expect("an answer");
    assert_eq!(one.read(NAME).await.expect("an answer").as_deref(), Some("tiny==3.0"));
}

#[tokio::test(start_paused = true)]
async fn a_bucket_that_does_not_answer_is_a_transient_error() {
    let deployment = TestDeployment::new().await;
    deployment.cloud.set_faults(Rule::always(Fault::ServerError).on(&["GetObject"]));
    match build_cache(&deployment).read(NAME).await {
        Err(error) if error.is_transient() => {
            assert!(error.to_string().starts_with("cannot use the build cache in S3: "), "{error}");
        }
        other => panic!("{other:?}"),
    }
}
