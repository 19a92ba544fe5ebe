//! What builds keep in S3, through the real SDK.

use codeloc_aws::build_cache::S3BuildCache;
use codeloc_images::{BuildCache, BuildError};
use codeloc_tests::TestDeployment;
use localcloud::faults::{Rule, Trouble};

const NAME: &str = "locks/0123.txt";

fn shelf(deployment: &TestDeployment) -> S3BuildCache {
    S3BuildCache::new(deployment.clients().s3, &deployment.settings.aws.bucket, "codeloc")
}

#[tokio::test(start_paused = true)]
async fn of_two_locks_for_the_same_requirements_the_first_one_stands() {
    let deployment = TestDeployment::new().await;
    let (one, other) = (shelf(&deployment), shelf(&deployment));
    assert_eq!(one.read(NAME).await.expect("an answer"), None);
    assert_eq!(one.write_first(NAME, "tiny==1.0".to_owned()).await.expect("an answer"), "tiny==1.0");
    assert_eq!(other.write_first(NAME, "tiny==2.0".to_owned()).await.expect("an answer"), "tiny==1.0");
    assert_eq!(other.read(NAME).await.expect("an answer").as_deref(), Some("tiny==1.0"));
    other.write(NAME, "tiny==3.0".to_owned()).await.expect("an answer");
    assert_eq!(one.read(NAME).await.expect("an answer").as_deref(), Some("tiny==3.0"));
}

#[tokio::test(start_paused = true)]
async fn a_bucket_that_does_not_answer_is_tried_again_and_never_taken_for_empty() {
    let deployment = TestDeployment::new().await;
    deployment.cloud.set_faults(Rule::always(Trouble::ServerError).on(&["GetObject"]));
    match shelf(&deployment).read(NAME).await {
        Err(BuildError::Transient(text)) => assert!(text.starts_with("cannot read or write the build cache"), "{text}"),
        other => panic!("{other:?}"),
    }
}
