from flowercnn.evaluation.charts import line_chart as line_chart
from flowercnn.evaluation.comparison import Comparison as Comparison
from flowercnn.evaluation.comparison import compare as compare
from flowercnn.evaluation.evaluation import Evaluation as Evaluation
from flowercnn.evaluation.evaluation import pooled as pooled
from flowercnn.evaluation.evaluator import evaluate as evaluate
from flowercnn.evaluation.label_errors import LabelIssue as LabelIssue
from flowercnn.evaluation.label_errors import label_issues as label_issues
from flowercnn.evaluation.metrics import ClassMetrics as ClassMetrics
from flowercnn.evaluation.metrics import Confusion as Confusion
from flowercnn.evaluation.metrics import Metric as Metric
from flowercnn.evaluation.metrics import Mistake as Mistake
from flowercnn.evaluation.metrics import ReliabilityBin as ReliabilityBin
from flowercnn.evaluation.metrics import interval_text as interval_text
from flowercnn.evaluation.metrics import loss_and_accuracy as loss_and_accuracy
from flowercnn.evaluation.metrics import wilson_interval as wilson_interval
from flowercnn.evaluation.plots import class_counts_figure as class_counts_figure
from flowercnn.evaluation.plots import confusion_figure as confusion_figure
from flowercnn.evaluation.plots import history_figure as history_figure
from flowercnn.evaluation.plots import learning_rate_figure as learning_rate_figure
from flowercnn.evaluation.plots import overlay_figure as overlay_figure
from flowercnn.evaluation.plots import per_class_figure as per_class_figure
from flowercnn.evaluation.plots import prediction_grid as prediction_grid
from flowercnn.evaluation.plots import reliability_figure as reliability_figure
from flowercnn.evaluation.plots import sample_grid as sample_grid
from flowercnn.evaluation.plots import save_figure as save_figure

__all__: list[str]
