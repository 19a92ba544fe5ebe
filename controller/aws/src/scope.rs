//! Which locations an observation covers.

use codeloc_core::names;
use codeloc_crds::LocationName;

#[derive(Clone, Copy, Debug)]
pub enum Scope<'a> {
    /// All locations of the deployment, with the fewest calls. The details that no bulk call returns are read in turns and cached between.
    All,
    /// One location, with its tags read again.
    One(&'a LocationName),
}

impl Scope<'_> {
    pub fn contains(self, location: &LocationName) -> bool {
        match self {
            Self::All => true,
            Self::One(only) => only == location,
        }
    }
}

/// The location of a full name. `None` if the name belongs to another deployment, to no location or is out of scope.
pub fn in_scope(scope: Scope<'_>, prefix: &str, name: &str) -> Option<LocationName> {
    names::location(name.strip_prefix(prefix)?).filter(|location| scope.contains(location))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn orders() -> LocationName {
        LocationName::new("orders").unwrap()
    }

    #[test]
    fn a_name_of_another_deployment_is_out_of_scope() {
        assert_eq!(in_scope(Scope::All, "/codeloc/", "/codeloc/orders"), Some(orders()));
        assert_eq!(in_scope(Scope::All, "/codeloc/", "/other/orders"), None);
        assert_eq!(in_scope(Scope::All, "/codeloc/", "/codeloc/"), None);
    }

    #[test]
    fn one_location_excludes_names_that_begin_like_it() {
        let orders = orders();
        assert_eq!(in_scope(Scope::One(&orders), "", "orders").as_ref(), Some(&orders));
        assert_eq!(in_scope(Scope::One(&orders), "", "orders-eu"), None);
    }
}
