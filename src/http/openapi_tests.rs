//! The document against the routes, the kinds of problems, the rules of OpenAPI, and its own examples.

use std::collections::{BTreeMap, BTreeSet};

use jsonschema::Validator;
use serde_json::{Value, json};

use super::DOCUMENT;
use crate::http::problem::Kind;
use crate::http::routes::ROUTES;

const METHODS: [&str; 8] = ["get", "put", "post", "delete", "options", "head", "patch", "trace"];

fn document() -> Value {
    serde_json::from_str(DOCUMENT).expect("the document is JSON")
}

/// A validator for a schema of the document, with the document's components in reach.
fn validator(schema: &Value) -> Validator {
    let rooted = json!({"allOf": [schema], "components": document()["components"]});
    jsonschema::options().should_validate_formats(true).build(&rooted).expect("a valid JSON Schema")
}

/// Fails unless the value is as `components/schemas/{name}` says.
pub(in crate::http) fn assert_matches(name: &str, value: &Value) {
    let reference = format!("#/components/schemas/{name}");
    if let Err(error) = validator(&json!({ "$ref": reference })).validate(value) {
        panic!("{name}: {error} at {} in {value}", error.instance_path());
    }
}

/// Path, method in capitals, and operation.
fn operations(document: &Value) -> Vec<(&str, String, &Value)> {
    let paths = document["paths"].as_object().expect("paths");
    paths
        .iter()
        .flat_map(|(path, item)| {
            let methods = item.as_object().expect("a path item").iter();
            let methods = methods.filter(|(name, _)| METHODS.contains(&name.as_str()));
            methods.map(move |(method, operation)| (path.as_str(), method.to_uppercase(), operation))
        })
        .collect()
}

/// Calls `visit` with every object in the document.
fn each_object<'a>(value: &'a Value, visit: &mut impl FnMut(&'a serde_json::Map<String, Value>)) {
    match value {
        Value::Object(object) => {
            visit(object);
            object.values().for_each(|inner| each_object(inner, visit));
        }
        Value::Array(items) => items.iter().for_each(|inner| each_object(inner, visit)),
        _ => {}
    }
}

#[test]
fn the_document_and_the_routes_name_the_same_operations() {
    let document = document();
    let documented: BTreeSet<_> = operations(&document).into_iter().map(|(path, method, _)| (path, method)).collect();
    let served = ROUTES.iter().flat_map(|route| route.methods.iter().map(|method| (route.path, (*method).to_owned())));
    assert_eq!(documented, served.collect());
}

#[test]
fn the_document_has_the_shape_of_openapi_3_1() {
    let shape = jsonschema::validator_for(&openapi_shape()).unwrap();
    let document = document();
    let errors: Vec<_> = shape.iter_errors(&document).map(|e| format!("{e} at {}", e.instance_path())).collect();
    assert!(errors.is_empty(), "{errors:#?}");
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
}

/// The part of OpenAPI 3.1 that the document uses, strictly: every field that it does not name is an error.
fn openapi_shape() -> Value {
    let map = |to: &str| json!({"type": "object", "additionalProperties": {"$ref": format!("#/$defs/{to}")}});
    let list = |of: &str| json!({"type": "array", "items": {"$ref": format!("#/$defs/{of}")}});
    let object = |required: &[&str], properties: Value| json!({"type": "object", "required": required, "properties": properties, "additionalProperties": false});
    let text = json!({"type": "string", "minLength": 1});
    let reference = object(&["$ref"], json!({"$ref": {"pattern": "^#/components/"}}));
    let security = json!({"type": "array", "items": object(&[], json!({"api_key": {"const": []}}))});
    let scheme = object(
        &["type", "scheme"],
        json!({"type": {"const": "http"}, "scheme": {"const": "bearer"}, "bearerFormat": text, "description": text}),
    );
    let operation = object(
        &["operationId", "tags", "summary", "responses"],
        json!({
            "operationId": text, "tags": {"type": "array", "items": text, "minItems": 1}, "summary": text,
            "description": text, "parameters": list("parameter"), "security": security,
            "requestBody": object(&["content"], json!({"required": {"type": "boolean"}, "content": map("media")})),
            "responses": {"type": "object", "minProperties": 1, "propertyNames": {"pattern": "^[1-5][0-9][0-9]$"},
                          "additionalProperties": {"$ref": "#/$defs/response"}},
        }),
    );
    let parameter = object(
        &["name", "in", "schema"],
        json!({
            "name": text, "in": {"enum": ["path", "query", "header"]}, "description": text,
            "required": {"type": "boolean"}, "schema": {"$ref": "#/$defs/schema"}, "example": true,
        }),
    );
    let document = object(
        &["openapi", "info", "paths", "components"],
        json!({
            "openapi": {"pattern": "^3\\.1\\.[0-9]+$"},
            "info": object(&["title", "version"], json!({
                "title": text, "version": text, "summary": text, "description": text,
                "license": object(&["name"], json!({"name": text, "identifier": text})),
            })),
            "servers": {"type": "array", "items": object(&["url"], json!({"url": text}))},
            "tags": {"type": "array", "items": object(&["name"], json!({"name": text, "description": text}))},
            "paths": {"type": "object", "propertyNames": {"pattern": "^/"}, "additionalProperties": {"$ref": "#/$defs/item"}},
            "security": security,
            "components": object(&["schemas"], json!({
                "schemas": map("schema"), "parameters": map("parameter"), "securitySchemes": map("scheme"),
            })),
        }),
    );
    let defs = json!({
        "item": object(&[], json!({"parameters": list("parameter"), "get": operation, "put": operation,
                                   "post": operation, "patch": operation, "delete": operation})),
        "scheme": scheme,
        "parameter": {"anyOf": [reference, parameter]},
        "response": object(&["description"], json!({
            "description": text, "headers": map("header"), "links": map("link"), "content": map("media"),
        })),
        "link": object(&["operationId", "parameters"], json!({
            "operationId": text,
            "parameters": {"type": "object", "minProperties": 1, "additionalProperties": {"type": "string", "pattern": "^\\$response\\.body#/"}},
        })),
        "header": object(&["schema"], json!({"description": text, "schema": {"$ref": "#/$defs/schema"}, "example": true})),
        "media": object(&[], json!({"schema": {"$ref": "#/$defs/schema"}, "example": true})),
        "schema": {"$ref": "https://json-schema.org/draft/2020-12/schema"},
    });
    json!({"$schema": "https://json-schema.org/draft/2020-12/schema", "$defs": defs, "allOf": [document]})
}

#[test]
fn a_link_leads_from_fields_of_an_answer_to_all_path_parameters_of_an_operation() {
    let document = document();
    let name = |parameter: &Value| match parameter["$ref"].as_str().and_then(|name| name.strip_prefix('#')) {
        Some(pointer) => document.pointer(pointer).expect("a parameter")["name"].clone(),
        None => parameter["name"].clone(),
    };
    let mut takes = BTreeMap::new();
    for (path, _, operation) in operations(&document) {
        // Those of the path item are all in the path.
        let parameters = document["paths"][path]["parameters"].as_array().into_iter().flatten();
        let names: BTreeSet<_> =
            parameters.map(|parameter| name(parameter).as_str().expect("text").to_owned()).collect();
        takes.insert(operation["operationId"].as_str().expect("text"), names);
    }
    let mut links = 0;
    for (path, method, operation) in operations(&document) {
        for response in operation["responses"].as_object().expect("responses").values() {
            for link in response["links"].as_object().into_iter().flat_map(|links| links.values()) {
                let target = link["operationId"].as_str().expect("text");
                let given = link["parameters"].as_object().expect("an object");
                let names: BTreeSet<_> = given.keys().cloned().collect();
                assert_eq!(takes.get(target), Some(&names), "{method} {path}, {target}");
                for expression in given.values() {
                    let pointer =
                        expression.as_str().and_then(|text| text.strip_prefix("$response.body#")).expect("text");
                    let example = &response["content"]["application/json"]["example"];
                    assert!(
                        example.pointer(pointer).is_some(),
                        "{method} {path}, {target}: {pointer} is not in the answer"
                    );
                }
                links += 1;
            }
        }
    }
    assert!(links > 0);
}

#[test]
fn whatever_needs_a_key_says_so_and_whatever_does_not_says_that() {
    let document = document();
    assert_eq!(document["security"], json!([{"api_key": []}]));
    for (path, method, operation) in operations(&document) {
        let open = operation["security"] == json!([]);
        let refused = |status: &str, kind: &str| {
            let description = operation["responses"][status]["description"].as_str().unwrap_or_default();
            description.contains(&format!("`/problems/{kind}`"))
        };
        let said = [refused("401", "key-missing"), refused("401", "key-wrong"), refused("403", "not-allowed")];
        assert_eq!(said, [!open; 3], "{method} {path}");
    }
}

/// The Swagger UI fills them in, and would send them: a search that finds nothing, a signature that is wrong. (Without its
/// type an event is refused by most subscriptions.)
#[test]
fn only_parameters_that_must_be_sent_have_examples() {
    let document = document();
    each_object(&document, &mut |object| {
        let text = |name: &str| object.get(name).and_then(Value::as_str).unwrap_or_default();
        let sent = ["query", "header"].contains(&text("in")) && object.contains_key("example");
        assert!(!sent || (text("in"), text("name")) == ("header", "event_type"), "{object:?}");
    });
}

#[test]
fn every_example_is_as_its_schema_says() {
    let document = document();
    let mut examples = 0;
    each_object(&document, &mut |object| {
        let (Some(schema), Some(example)) = (object.get("schema"), object.get("example")) else { return };
        examples += 1;
        if let Err(error) = validator(schema).validate(example) {
            panic!("{error} in {example}");
        }
    });
    assert!(examples > 30, "{examples} examples were found");
}

#[test]
fn every_reference_leads_somewhere() {
    let document = document();
    each_object(&document, &mut |object| {
        let Some(Value::String(reference)) = object.get("$ref") else { return };
        let found = document.pointer(reference.trim_start_matches('#'));
        assert!(found.is_some(), "{reference}");
    });
}

#[test]
fn operations_have_ids_of_their_own_and_tags_that_exist() {
    let document = document();
    let tags: BTreeSet<_> =
        document["tags"].as_array().unwrap().iter().map(|tag| &tag["name"]).map(Value::to_string).collect();
    let mut ids = BTreeSet::new();
    for (path, method, operation) in operations(&document) {
        assert!(ids.insert(operation["operationId"].to_string()), "{method} {path}");
        assert!(operation["tags"].as_array().unwrap().iter().all(|tag| tags.contains(&tag.to_string())));
    }
}

#[test]
fn path_parameters_are_described() {
    let document = document();
    for (path, item) in document["paths"].as_object().unwrap() {
        let described = item["parameters"].as_array().cloned().unwrap_or_default();
        let resolved = described.iter().map(|one| match one["$ref"].as_str() {
            Some(reference) => &document.pointer(reference.trim_start_matches('#')).unwrap()["name"],
            None => &one["name"],
        });
        let named: Vec<String> = resolved.map(|name| format!("{{{}}}", name.as_str().unwrap())).collect();
        let in_path: Vec<&str> = path.split('/').filter(|segment| segment.starts_with('{')).collect();
        assert_eq!(named, in_path, "{path}");
    }
}

#[test]
fn the_kinds_of_problems_are_documented_with_their_status() {
    let document = document();
    let types = document["components"]["schemas"]["Problem"]["properties"]["type"]["enum"].as_array().unwrap();
    let kinds = Kind::ALL.map(|kind| json!(format!("/problems/{}", kind.name())));
    assert_eq!(types.as_slice(), kinds);
    let description = document["info"]["description"].as_str().unwrap();
    for kind in Kind::ALL {
        assert!(description.contains(&format!("| `/problems/{}` | {} |", kind.name(), kind.status())), "{kind:?}");
    }
}

#[test]
fn a_response_lists_problems_of_its_own_status_and_every_kind_is_listed_somewhere() {
    let document = document();
    let mut listed = BTreeSet::new();
    for (path, method, operation) in operations(&document) {
        for (status, response) in operation["responses"].as_object().unwrap() {
            let description = response["description"].as_str().unwrap();
            for kind in Kind::ALL.iter().filter(|kind| description.contains(&format!("`/problems/{}`", kind.name()))) {
                assert_eq!(&kind.status().to_string(), status, "{method} {path}: {kind:?}");
                listed.insert(kind.name());
            }
        }
    }
    let unlisted: Vec<_> = Kind::ALL.iter().map(|kind| kind.name()).filter(|name| !listed.contains(name)).collect();
    assert_eq!(unlisted, ["method-not-allowed"], "which belongs to no operation");
}

#[test]
fn every_body_that_is_taken_and_every_answer_has_an_example_and_every_error_is_a_problem() {
    let document = document();
    for (path, method, operation) in operations(&document) {
        let taken = operation["requestBody"]["content"].as_object().into_iter().flatten();
        let answered = operation["responses"].as_object().unwrap().iter().flat_map(|(status, response)| {
            let content = response["content"].as_object();
            if status.starts_with(['4', '5']) {
                let schema =
                    content.and_then(|content| content.get("application/problem+json")).map(|media| &media["schema"]);
                assert_eq!(schema, Some(&json!({"$ref": "#/components/schemas/Problem"})), "{method} {path} {status}");
            } else if !["204", "308"].contains(&status.as_str()) {
                assert!(content.is_some_and(|content| !content.is_empty()), "{method} {path} {status}");
            }
            content.into_iter().flatten()
        });
        for (media_type, media) in taken.chain(answered) {
            assert!(media.get("example").is_some(), "{method} {path}: {media_type}");
        }
    }
}
