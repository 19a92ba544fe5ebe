//! Which locations an observation covers.

#[derive(Clone, Copy, Debug)]
pub enum Scope<'a> {
    /// All locations of the deployment, with the fewest calls. The details that no bulk call returns are read in turns and cached between.
    All,
    /// One location, with its tags read again.
    One(&'a str),
}

/// The location of a full name. `None` if the name belongs to another deployment or is out of scope.
pub fn in_scope<'n>(scope: Scope<'_>, prefix: &str, name: &'n str) -> Option<&'n str> {
    let location = name.strip_prefix(prefix).filter(|rest| !rest.is_empty())?;
    match scope {
        Scope::All => Some(location),
        Scope::One(only) => (only == location).then_some(location),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_another_deployment_is_out_of_scope() {
        assert_eq!(in_scope(Scope::All, "/codeloc/", "/codeloc/orders"), Some("orders"));
        assert_eq!(in_scope(Scope::All, "/codeloc/", "/other/orders"), None);
        assert_eq!(in_scope(Scope::All, "/codeloc/", "/codeloc/"), None);
    }

    #[test]
    fn one_location_excludes_names_that_begin_like_it() {
        assert_eq!(in_scope(Scope::One("orders"), "", "orders"), Some("orders"));
        assert_eq!(in_scope(Scope::One("orders"), "", "orders-eu"), None);
    }
}
