// Whether an object is one that Kubernetes takes, and has no field that its kind does not know: a misspelt field would be dropped
// in silence there. The packages of schemas check types but pass unknown fields. They read each field that they know, though, so a
// field that none of them reads is unknown.
import { readFileSync } from "node:fs";
import Ajv from "ajv/dist/2020.js";
import * as apps from "kubernetes-models/apps/v1";
import * as autoscaling from "kubernetes-models/autoscaling/v2";
import * as core from "kubernetes-models/v1";
import * as networking from "kubernetes-models/networking.k8s.io/v1";
import * as policy from "kubernetes-models/policy/v1";
import * as rbac from "kubernetes-models/rbac.authorization.k8s.io/v1";
import * as gateway from "@kubernetes-models/gateway-api/gateway.networking.k8s.io/v1";
import * as keda from "@kubernetes-models/keda/keda.sh/v1alpha1";
import * as prometheus from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1";

const groups = {
    "v1": core,
    "apps/v1": apps,
    "autoscaling/v2": autoscaling,
    "networking.k8s.io/v1": networking,
    "policy/v1": policy,
    "rbac.authorization.k8s.io/v1": rbac,
    "gateway.networking.k8s.io/v1": gateway,
    "keda.sh/v1alpha1": keda,
    "monitoring.coreos.com/v1": prometheus,
};

const ajv = new Ajv({ allErrors: true, strict: true, allowUnionTypes: true });
const ownSchema = (name) => ajv.compile(JSON.parse(readFileSync(new URL(`schemas/${name}.json`, import.meta.url))));
// Kinds of projects without a package of schemas: described by hand, and closed.
const own = {
    "inference.networking.k8s.io/v1 InferencePool": ownSchema("inference-pool"),
    "llm-d.ai/v1alpha1 EndpointPickerConfig": ownSchema("endpoint-picker-config"),
};

// The value, and in `seen` each object within it with the names that were read of it.
function watched(value, place, seen) {
    const read = new Set(), children = new Map();
    if (!Array.isArray(value)) seen.push({ value, place, read });
    return new Proxy(value, {
        get(target, name, self) {
            const child = Reflect.get(target, name, self);
            if (typeof name === "symbol" || !Object.hasOwn(target, name)) return child;
            read.add(name);
            if (child === null || typeof child !== "object") return child;
            if (!children.has(name)) children.set(name, watched(child, `${place}/${name}`, seen));
            return children.get(name);
        },
        ownKeys(target) { // a map of any names
            for (const name of Object.keys(target)) read.add(name);
            return Reflect.ownKeys(target);
        },
    });
}

const sentences = (errors) => (errors ?? []).map((e) => `${e.instancePath || "/"} ${e.message}${e.params?.additionalProperty ? `: ${e.params.additionalProperty}` : ""}`);

// What is wrong with the object, a sentence each; empty if nothing is.
export function faults(object) {
    const check = own[`${object.apiVersion} ${object.kind}`];
    if (check) return check(object) ? [] : sentences(check.errors);
    const Kind = groups[object.apiVersion]?.[object.kind];
    if (!Kind) return [`${object.apiVersion} ${object.kind} is a kind without a schema here`];
    const seen = [], model = watched(new Kind(object), "", seen);
    try {
        model.validate();
    } catch (e) {
        return sentences(e.errors).length ? sentences(e.errors) : [e.message];
    }
    return seen.flatMap(({ value, place, read }) => Object.keys(value).filter((name) => !read.has(name)).map((name) => `${place}/${name} is no field of a ${object.kind}`));
}
