{{/* Name of the release's objects: the release's own name where that says Tidegate already. */}}
{{- define "tidegate.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "tidegate.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* Labels of one part; call with (list . "operator"). */}}
{{- define "tidegate.componentLabels" -}}
{{- include "tidegate.labels" (index . 0) }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- define "tidegate.selector" -}}
app.kubernetes.io/name: {{ (index . 0).Chart.Name }}
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* The same selector as the API takes it: key=value,key=value. */}}
{{- define "tidegate.selectorText" -}}
{{- include "tidegate.selector" . | replace ": " "=" | replace "\n" "," -}}
{{- end -}}

{{/* Reference of one of the project's images; call with (list . "model-agent" .Values.operator.images.modelAgent). */}}
{{- define "tidegate.image" -}}
{{- $root := index . 0 -}}
{{- index . 2 | default (printf "%s/%s:%s" $root.Values.images.registry (index . 1) ($root.Values.images.tag | default $root.Chart.AppVersion)) -}}
{{- end -}}

{{- define "tidegate.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "tidegate.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* Where a pod may run; call with the part's values. */}}
{{- define "tidegate.scheduling" -}}
{{- with .nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "tidegate.pullSecrets" -}}
{{- with .Values.images.pullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Volume of Prometheus or MLflow; call with (list . "mlflow"). */}}
{{- define "tidegate.volume" -}}
{{- $root := index . 0 -}}
{{- $name := index . 1 -}}
{{- $values := index $root.Values $name -}}
{{- if $values.hostPath -}}
hostPath: {path: {{ $values.hostPath | quote }}, type: Directory}
{{- else if $values.storage -}}
persistentVolumeClaim: {claimName: {{ include "tidegate.fullname" $root }}-{{ $name }}}
{{- else -}}
emptyDir: {}
{{- end -}}
{{- end -}}

{{- define "tidegate.claim" -}}
{{- $root := index . 0 -}}
{{- $name := index . 1 -}}
{{- $values := index $root.Values $name -}}
{{- if and $values.storage (not $values.hostPath) }}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  name: {{ include "tidegate.fullname" $root }}-{{ $name }}
  namespace: {{ $root.Release.Namespace }}
  labels: {{- include "tidegate.componentLabels" (list $root $name) | nindent 4 }}
  annotations:
    # The data stays when the release is uninstalled.
    helm.sh/resource-policy: keep
spec:
  accessModes: [ReadWriteOnce]
  {{- with $values.storageClassName }}
  storageClassName: {{ . }}
  {{- end }}
  resources: {requests: {storage: {{ $values.storage }}}}
{{- end }}
{{- end -}}

{{/* A Service of one part with one type; call with (list . "mlflow" service ports). */}}
{{- define "tidegate.service" -}}
{{- $root := index . 0 -}}
{{- $name := index . 1 -}}
{{- $service := index . 2 -}}
apiVersion: v1
kind: Service
metadata:
  name: {{ include "tidegate.fullname" $root }}-{{ $name }}
  namespace: {{ $root.Release.Namespace }}
  labels: {{- include "tidegate.componentLabels" (list $root $name) | nindent 4 }}
  {{- with $service.annotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  type: {{ $service.type | default "ClusterIP" }}
  selector: {{- include "tidegate.selector" (list $root $name) | nindent 4 }}
  ports:
  {{- range index . 3 }}
  - name: {{ .name }}
    port: {{ .port }}
    targetPort: {{ .name }}
    {{- if and (eq ($service.type | default "ClusterIP") "NodePort") $service.nodePort }}
    nodePort: {{ $service.nodePort }}
    {{- end }}
  {{- end }}
{{- end -}}

{{- define "tidegate.prometheusURL" -}}
{{- if .Values.prometheus.enabled -}}
http://{{ include "tidegate.fullname" . }}-prometheus.{{ .Release.Namespace }}:9090
{{- else -}}
{{- .Values.prometheus.url -}}
{{- end -}}
{{- end -}}

{{- define "tidegate.prometheusSecret" -}}
{{- if and .Values.prometheus.enabled .Values.prometheus.auth.existingSecret -}}
{{- fail "prometheus.auth.existingSecret is for a Prometheus of your own; set prometheus.enabled: false and prometheus.url" -}}
{{- end -}}
{{- .Values.prometheus.auth.existingSecret -}}
{{- end -}}

{{- define "tidegate.mlflowURL" -}}
{{- if .Values.mlflow.enabled -}}
http://{{ include "tidegate.fullname" . }}-mlflow.{{ .Release.Namespace }}:5000
{{- else -}}
{{- .Values.mlflow.url -}}
{{- end -}}
{{- end -}}

{{/* Pods that Prometheus reads; call with a port and a path. */}}
{{- define "tidegate.scrape" -}}
prometheus.io/scrape: "true"
prometheus.io/port: {{ index . 0 | quote }}
prometheus.io/path: {{ index . 1 }}
{{- end -}}

{{/* The same rules in the whole cluster, or in each watched namespace; call with (list . "operator" rules namespaces). */}}
{{- define "tidegate.grant" -}}
{{- $root := index . 0 -}}
{{- $name := printf "%s-%s" (include "tidegate.fullname" $root) (index . 1) -}}
{{- $labels := include "tidegate.componentLabels" (list $root (index . 1)) -}}
{{- $rules := index . 2 -}}
{{- $account := dict "kind" "ServiceAccount" "name" $name "namespace" $root.Release.Namespace -}}
{{- $namespaces := index . 3 -}}
{{- if not $namespaces }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: {{ $name }}
  labels: {{- $labels | nindent 4 }}
rules: {{- $rules | nindent 0 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: {{ $name }}
  labels: {{- $labels | nindent 4 }}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: {{ $name }}}
subjects: {{- list $account | toYaml | nindent 0 }}
{{- end }}
{{- range $namespace := $namespaces }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: {{ $name }}
  namespace: {{ $namespace }}
  labels: {{- $labels | nindent 4 }}
rules: {{- $rules | nindent 0 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: {{ $name }}
  namespace: {{ $namespace }}
  labels: {{- $labels | nindent 4 }}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: {{ $name }}}
subjects: {{- list $account | toYaml | nindent 0 }}
{{- end }}
{{- end -}}
