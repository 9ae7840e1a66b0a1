{{/* Name of everything in the release: the release's own if it says fathom, so that `helm install fathom` gives "fathom". */}}
{{- define "fathom.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 52 | trimSuffix "-" }}{{ end -}}
{{- end }}

{{/* Labels by which pods are found. They never change: a Deployment's selector cannot. */}}
{{- define "fathom.selector" -}}
app.kubernetes.io/name: fathom
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "fathom.labels" -}}
{{ include "fathom.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end }}

{{- define "fathom.pickerSelector" -}}
app.kubernetes.io/name: fathom-picker
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "fathom.pickerName" -}}
{{ include "fathom.name" . }}-picker
{{- end }}

{{- define "fathom.image" -}}
{{- $default := ternary "fathom-cuda" "fathom" (eq .Values.device "gpu") -}}
{{ .Values.image.repository | default $default }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "fathom.hasVolume" -}}
{{- with .Values.model.volume }}{{ if or .claim .image .hostPath }}true{{ end }}{{ end -}}
{{- end }}

{{- define "fathom.model" -}}
{{- if include "fathom.hasVolume" . }}{{ list .Values.model.volume.mountPath .Values.model.path | compact | join "/" }}
{{- else }}{{ .Values.model.path }}{{ end -}}
{{- end }}

{{- define "fathom.graceSeconds" -}}
{{- with .Values.drain }}{{ add .lameDuckSeconds .seconds .marginSeconds }}{{ end -}}
{{- end }}

{{/* What no schema can say: a sentence for each pair of values that do not go together. */}}
{{- define "fathom.check" -}}
{{- $own := dict "model" "model.path" "served-name" "model.servedName" "host" "service" "port" "service" "admin-host" "monitoring" "admin-port" "monitoring" "device" "device" "api-key-file" "apiKeys" "drain-seconds" "drain.seconds" "lame-duck-seconds" "drain.lameDuckSeconds" "kv-events-endpoint" "kvEvents" -}}
{{- range $name, $value := .Values.options }}
{{- if hasKey $own $name }}{{ fail (printf "options.%s: the chart sets --%s itself, from %s" $name $name (get $own $name)) }}{{ end }}
{{- end }}
{{- with .Values.model.volume }}
{{- if gt (len (compact (list .claim .image .hostPath))) 1 }}{{ fail "model.volume: claim, image and hostPath exclude each other" }}{{ end }}
{{- end }}
{{- with .Values.autoscaling }}
{{- if gt (int .minReplicas) (int .maxReplicas) }}{{ fail "autoscaling.minReplicas is larger than autoscaling.maxReplicas" }}{{ end }}
{{- end }}
{{- if and (not .Values.model.path) (not (include "fathom.hasVolume" .)) }}{{ fail "model.path is empty, and there is no model.volume" }}{{ end }}
{{- if and .Values.kvEvents.enabled (has (int .Values.kvEvents.port) (list 8080 8081)) }}{{ fail "kvEvents.port: 8080 and 8081 are the ports of requests and of monitoring" }}{{ end }}
{{- if and .Values.kvEvents.enabled .Values.apiKeys.secret (ne (toString (index .Values.options "share-cache")) "true") }}{{ fail "kvEvents.enabled: with apiKeys no key may use the cache of another, so a router could use no event; set options.share-cache to true if they may" }}{{ end }}
{{- if and .Values.gateway.enabled (hasKey .Values.options "metrics-key") }}{{ fail "options.metrics-key: the endpoint picker asks for metrics without a key; leave it out, since the route hands on /v1 only" }}{{ end }}
{{- if and .Values.gateway.enabled (hasKey .Values.options "max-queue") }}{{ fail "options.max-queue: with gateway.enabled it is gateway.maxQueue" }}{{ end }}
{{- if and .Values.gateway.enabled (not .Values.gateway.picker.create) (not .Values.gateway.picker.service) }}{{ fail "gateway.picker.service names the picker's Service when gateway.picker.create is false" }}{{ end }}
{{- end }}

{{/* Arguments of the container, a line each. */}}
{{- define "fathom.args" -}}
- serve
- {{ printf "--model=%s" (include "fathom.model" .) | quote }}
{{- with .Values.model.servedName }}
- {{ printf "--served-name=%s" . | quote }}
{{- end }}
- --device={{ ternary "cuda" "cpu" (eq .Values.device "gpu") }}
- --host=0.0.0.0
- --port=8080
- --admin-host=0.0.0.0
- --admin-port=8081
- --lame-duck-seconds={{ .Values.drain.lameDuckSeconds }}
- --drain-seconds={{ .Values.drain.seconds }}
{{- if .Values.apiKeys.secret }}
- --api-key-file=/etc/fathom/keys
{{- end }}
{{- if .Values.kvEvents.enabled }}
- {{ printf "--kv-events-endpoint=tcp://*:%d" (int .Values.kvEvents.port) | quote }}
{{- end }}
{{- if .Values.gateway.enabled }}
- --max-queue={{ .Values.gateway.maxQueue | int64 }}
{{- end }}
{{- range $name, $value := .Values.options }}
{{- if kindIs "slice" $value }}
{{- range $value }}
- {{ printf "--%s=%s" $name (include "fathom.plain" .) | quote }}
{{- end }}
{{- else if eq (toString $value) "true" }}
- --{{ $name }}
{{- else if ne (toString $value) "false" }}
- {{ printf "--%s=%s" $name (include "fathom.plain" $value) | quote }}
{{- end }}
{{- end }}
{{- end }}

{{/* A value as a person writes it: YAML's whole numbers are floats here, and 1048576 would print as 1.048576e+06. */}}
{{- define "fathom.plain" -}}
{{- if and (kindIs "float64" .) (eq . (floor .)) }}{{ int64 . }}{{ else }}{{ . }}{{ end -}}
{{- end }}

{{/* How an autoscaler moves. */}}
{{- define "fathom.behavior" -}}
scaleUp:
  # At most twice the pods in a minute: a new one takes load only when its model is there.
  policies:
    - {type: Percent, value: 100, periodSeconds: 60}
    - {type: Pods, value: 1, periodSeconds: 60}
scaleDown:
  # Not shorter than a drain, so that a pod on its way out does not make the next one look idle. 3600 is Kubernetes' limit.
  stabilizationWindowSeconds: {{ min 3600 (max 300 (add .Values.drain.lameDuckSeconds .Values.drain.seconds)) }}
  policies:
    - {type: Pods, value: 1, periodSeconds: {{ .Values.autoscaling.scaleDownSeconds }}}
{{- end }}
