//! Holds `docs/api/openapi.yaml` against the code: every route of both sockets, every code, every member of every body, every reference.

#![allow(clippy::disallowed_methods, reason = "tests wait and measure")]

use claviger::{
    model::Code,
    server::{ROUTES, Route},
};
use std::{collections::BTreeSet, fs, path::Path};
use yaml_rust2::{Yaml, YamlLoader};

/// In the description, the operator socket's paths stand under this one.
const OPERATOR: &str = "/operator";

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

fn api() -> Yaml {
    let mut documents = YamlLoader::load_from_str(&read("docs/api/openapi.yaml")).unwrap();
    assert_eq!(documents.len(), 1);
    documents.remove(0)
}

fn operations(api: &Yaml) -> Vec<(String, String, &Yaml)> {
    let mut out = Vec::new();
    for (path, item) in api["paths"].as_hash().unwrap() {
        for (method, operation) in item.as_hash().unwrap().iter().filter(|(key, _)| key.as_str() != Some("parameters")) {
            out.push((path.as_str().unwrap().to_owned(), method.as_str().unwrap().to_uppercase(), operation));
        }
    }
    out
}

#[test]
fn every_route_is_described_and_nothing_else() {
    let api = api();
    assert_eq!(api["openapi"].as_str(), Some("3.1.0"));
    let described: BTreeSet<(String, String, String)> = operations(&api)
        .into_iter()
        .map(|(path, method, operation)| {
            let tag = operation["tags"][0].as_str().unwrap().to_owned();
            let real = match path.strip_prefix(OPERATOR) {
                Some(real) => real.to_owned(),
                None => path.clone(),
            };
            assert_eq!(tag == "operator", real != path, "{method} {path}: tag and path name different sockets");
            (tag, method, real)
        })
        .collect();
    let served: BTreeSet<_> =
        ROUTES.iter().map(|Route { socket, method, path }| ((*socket).to_owned(), (*method).to_owned(), (*path).to_owned())).collect();
    let (missing, extra): (Vec<_>, Vec<_>) = (served.difference(&described).collect(), described.difference(&served).collect());
    assert!(missing.is_empty() && extra.is_empty(), "not described: {missing:?}; not served: {extra:?}");
}

#[test]
fn every_operation_has_an_example_its_parameters_and_its_refusals() {
    let api = api();
    let mut ids = BTreeSet::new();
    for (path, method, operation) in operations(&api) {
        let what = format!("{method} {path}");
        assert!(ids.insert(operation["operationId"].as_str().expect(&what)), "{what}: its operationId is taken");
        assert!(operation["summary"].as_str().is_some(), "{what}: no summary");
        let description = operation["description"].as_str().unwrap_or_default();
        let socket = operation["tags"][0].as_str().unwrap();
        assert!(description.contains(&format!("--unix-socket /run/claviger/{socket}.sock")), "{what}: no example with curl");
        let real = path.trim_start_matches(OPERATOR);
        let fixed = real.split('{').next().unwrap();
        assert!(description.contains(&format!("http://claviger{fixed}")), "{what}: the example asks for something else");
        assert!(!operation["responses"]["default"].is_badvalue(), "{what}: no refusals");
        let item = &api["paths"][path.as_str()];
        let parameters = |yaml: &Yaml| yaml["parameters"].as_vec().cloned().unwrap_or_default();
        let named: Vec<String> = parameters(item)
            .iter()
            .chain(&parameters(operation))
            .filter_map(|parameter| resolved(&api, parameter)["name"].as_str().map(str::to_owned))
            .collect();
        for name in real.split('{').skip(1).filter_map(|rest| rest.split('}').next()) {
            assert!(named.contains(&name.to_owned()), "{what}: {name} is not described");
        }
    }
}

#[test]
fn every_code_is_listed_and_no_other() {
    let api = api();
    let listed: BTreeSet<&str> =
        api["components"]["schemas"]["Code"]["anyOf"][0]["enum"].as_vec().unwrap().iter().filter_map(Yaml::as_str).collect();
    let known: BTreeSet<&str> = Code::ALL.iter().map(|(code, _)| code.as_str()).collect();
    assert_eq!(listed, known);
}

#[test]
fn every_status_is_in_the_table() {
    let api = api();
    let table = api["components"]["responses"]["Refused"]["description"].as_str().unwrap();
    let source = read("src/server/reply.rs");
    let function = source.split("fn status(").nth(1).unwrap().split("\n}\n").next().unwrap();
    let mut seen = 0;
    for word in function.split("StatusCode::").skip(1) {
        let name: String = word.chars().take_while(|c| c.is_ascii_uppercase() || *c == '_').collect();
        if name.is_empty() {
            continue;
        }
        let number = match name.as_str() {
            "BAD_REQUEST" => 400,
            "UNAUTHORIZED" => 401,
            "FORBIDDEN" => 403,
            "NOT_FOUND" => 404,
            "METHOD_NOT_ALLOWED" => 405,
            "CONFLICT" => 409,
            "GONE" => 410,
            "PAYLOAD_TOO_LARGE" => 413,
            "TOO_MANY_REQUESTS" => 429,
            "INTERNAL_SERVER_ERROR" => 500,
            "SERVICE_UNAVAILABLE" => 503,
            other => panic!("{other} is new: say in the description when it is answered"),
        };
        assert!(table.contains(&format!("| {number} |")), "{number} is not in the table");
        seen += 1;
    }
    assert!(seen > 8, "the function was not found");
}

#[test]
fn references_lead_somewhere_and_nothing_is_left_over() {
    let api = api();
    let mut used = BTreeSet::new();
    references(&api, &mut used);
    for reference in &used {
        assert!(!resolved_path(&api, reference).is_badvalue(), "{reference} leads nowhere");
    }
    for (kind, entries) in api["components"].as_hash().unwrap() {
        for name in entries.as_hash().unwrap().keys() {
            let reference = format!("#/components/{}/{}", kind.as_str().unwrap(), name.as_str().unwrap());
            assert!(used.contains(&reference), "{reference} is used by nothing");
        }
    }
}

/// The structs of `src/wire` by the schemas that describe them; the members are read from the source.
#[test]
fn members_are_those_of_the_wire() {
    let api = api();
    let source = read("src/wire/workload.rs") + &read("src/wire/operator.rs") + &read("src/wire/rotation.rs") + &read("src/wire/cache.rs");
    let schemas = &api["components"]["schemas"];
    let lease = &schemas["LeaseView"];
    let rows = [
        ("LeaseRequest", &schemas["LeaseRequest"]),
        ("LeaseView", lease),
        ("HolderView", &lease["properties"]["holder"]),
        ("Issued", &schemas["Issued"]),
        ("SecretValue", &schemas["Issued"]["properties"]["secret"]),
        ("ErrorBody", &schemas["ErrorBody"]),
        ("ErrorView", &schemas["ErrorView"]),
        ("WhoAmI", &schemas["WhoAmI"]),
        ("IdentityView", &schemas["WhoAmI"]["properties"]["identity"]),
        ("SecretList", &schemas["SecretList"]),
        ("SecretView", &schemas["SecretList"]["properties"]["secrets"]["items"]),
        ("LeaseList", &schemas["LeaseList"]),
        ("AllLeases", &schemas["LeaseList"]),
        ("LeaseAnswer", &schemas["LeaseAnswer"]),
        ("Explanation", &schemas["Explanation"]),
        ("Health", &schemas["Health"]),
        ("EndRequest", &schemas["EndRequest"]),
        ("EndAnswer", &schemas["EndAnswer"]),
        ("EndRow", &schemas["EndAnswer"]["properties"]["ended"]["items"]),
        ("StoredList", &schemas["StoredList"]),
        ("StoredView", &schemas["StoredList"]["properties"]["values"]["items"]),
        ("KeptRow", &schemas["KeptList"]["properties"]["kept"]["items"]),
        ("KeptList", &schemas["KeptList"]),
        ("EvictAnswer", &schemas["EvictAnswer"]),
        ("EvictRow", &schemas["EvictAnswer"]["properties"]["evicted"]["items"]),
        ("RotationRow", &schemas["RotationRow"]),
        ("RotationList", &schemas["RotationList"]),
        ("RotationAnswer", &schemas["RotationAnswer"]),
        ("IdentityList", &schemas["IdentityList"]),
        ("IdentityRow", &schemas["IdentityList"]["properties"]["identities"]["items"]),
        ("IdentityTry", &schemas["IdentityTry"]),
        ("SelectorView", &schemas["IdentityTry"]["properties"]["selectors"]["items"]),
        ("BundleAnswer", &schemas["BundleAnswer"]),
        ("KeyRow", &schemas["KeyRow"]),
        ("KeyList", &schemas["KeyList"]),
        ("KeyAnswer", &schemas["KeyAnswer"]),
        ("FreezeRequest", &schemas["FreezeRequest"]),
        ("Status", &schemas["Status"]),
        ("LeaseCounts", &schemas["Status"]["properties"]["leases"]),
        ("EngineView", &schemas["EngineView"]),
        ("EngineList", &schemas["EngineList"]),
        ("KeyRequest", &schemas["KeyRequest"]),
        ("ReconcileRequest", &schemas["ReconcileRequest"]),
        ("ReconcileAnswer", &schemas["ReconcileAnswer"]),
    ];
    for (name, schema) in rows {
        let described: BTreeSet<&str> = schema["properties"].as_hash().expect(name).keys().filter_map(Yaml::as_str).collect();
        let (members, always) = members(&source, name);
        assert_eq!(described, members.iter().map(String::as_str).collect(), "{name}");
        let required: BTreeSet<&str> =
            schema["required"].as_vec().map(|list| list.iter().filter_map(Yaml::as_str).collect()).unwrap_or_default();
        for member in required {
            assert!(always.contains(member), "{name}.{member} is not always there");
        }
    }
    let covered = source.matches("pub struct ").count();
    assert_eq!(covered, rows.len(), "a struct of src/wire is not in this list");
}

#[test]
fn every_kind_of_selector_is_described() {
    let page = read("docs/identities.md");
    let described: BTreeSet<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(kind, _)| kind)
        .filter(|kind| kind.contains(':'))
        .collect();
    assert_eq!(described, claviger::model::Selector::kinds().collect());
}

/// The members of a struct, and those that are never left out.
fn members(source: &str, name: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let body = source.split(&format!("pub struct {name} {{\n")).nth(1).expect(name).split("\n}\n").next().unwrap();
    let (mut all, mut always, mut optional) = (BTreeSet::new(), BTreeSet::new(), false);
    for line in body.lines().map(str::trim) {
        if line.starts_with("#[") {
            optional |= line.contains("skip_serializing_if");
        } else if let Some((member, _)) = line.strip_prefix("pub ").and_then(|line| line.split_once(": ")) {
            all.insert(member.to_owned());
            if !optional {
                always.insert(member.to_owned());
            }
            optional = false;
        }
    }
    (all, always)
}

fn references(yaml: &Yaml, found: &mut BTreeSet<String>) {
    match yaml {
        Yaml::Array(items) => items.iter().for_each(|item| references(item, found)),
        Yaml::Hash(members) => {
            for (key, value) in members {
                match (key.as_str(), value.as_str()) {
                    (Some("$ref"), Some(reference)) => drop(found.insert(reference.to_owned())),
                    _ => references(value, found),
                }
            }
        }
        _ => {}
    }
}

fn resolved<'a>(api: &'a Yaml, yaml: &'a Yaml) -> &'a Yaml {
    yaml["$ref"].as_str().map_or(yaml, |reference| resolved_path(api, reference))
}

fn resolved_path<'a>(api: &'a Yaml, reference: &str) -> &'a Yaml {
    reference.trim_start_matches("#/").split('/').fold(api, |at, name| &at[name])
}
